-- An account and the level of its bucket now.  Writes nothing.
--   KEYS[1]  one of its keys
-- Reply: nil if there is no account, or the key is revoked; an empty list if the value is not an account; else
-- name, capacity as text, rate as text, level, and microseconds since its bucket was last used; why the key must not be
-- used (see `refusal`), or 0; digest of the first key, microseconds until the key expires (0: it does not), and of its
-- own bucket capacity (0: none), rate as text, level; these three of the shadow policy of the user; and if there is one,
-- the quota (see `add_quota`).

local reason, place, left, own_capacity, own_rate, quota, more = account_of(KEYS[1])
if reason == nil or reason == REVOKED then
  return false
elseif not reason then
  return {}
end
local name, capacity, rate, level, elapsed = refilled(place)
local own_level = 0
if own_capacity > 0 then
  local own = 'tokenlb:key_bucket:' .. KEYS[1]:sub(9)
  own_level = refilled_shared(own, own_capacity * MICROTOKENS, tonumber(own_rate))
end
local shadow, shadow_capacity, shadow_rate, shadow_level = nil, 0, '0', 0
if has_shadow(more) then
  shadow, shadow_capacity, shadow_rate = shadow_of(place)
  if not shadow then
    return {}
  end
  shadow_level = refilled_shared(shadow, shadow_capacity * MICROTOKENS, tonumber(shadow_rate))
end
local reply = {
  name, whole(capacity), rate, level, max(elapsed, 0), reason, place:sub(10, -2), left, own_capacity, own_rate, own_level,
  shadow_capacity, shadow_rate, shadow_level,
}
return quota and add_quota(reply, quota) or reply
