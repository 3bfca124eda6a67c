-- An account and the level of its bucket now.  Writes nothing.
--   KEYS[1]  the account
-- Reply: nil where there is no account, else name, capacity as text, rate as text, level.

local name, capacity, rate, level = refilled(KEYS[1])
if not name then
  return false
end
return {name, whole(capacity), rate, level}
