-- Which of some keys must not be used now.  Writes nothing.
--   KEYS   any number of keys
-- Reply: the positions of those that are refused or unknown, from 1.

local refused = {}
for i = 1, #KEYS do
  local name, _, _, _, _, _, text = refilled(KEYS[i])
  local usable = false
  if name then
    local user, state, expires = states(text)
    usable = user ~= nil and not refusal(user, state, expires)
  elseif name == false then
    local owner, own_text = further(KEYS[i])
    if owner then
      local found, _, _, _, _, _, of_user = refilled(owner)
      local user, _, state, expires = states(found and of_user or nil), states(own_text)
      usable = found and user and state and not refusal(user, state, expires)
    else
      -- A value that is not a key is left for the operator, and does not close tunnels.
      usable = true
    end
  end
  if not usable then
    refused[#refused + 1] = i
  end
end
return refused
