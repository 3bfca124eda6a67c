-- An account and the level of its bucket now.  Writes nothing.
--   KEYS[1]  one of its keys
-- Reply: nil if there is no account, or the key is revoked; an empty list if the value is not an account; else
-- name, capacity as text, rate as text, level, and microseconds since its bucket was last used; why the key must not be
-- used (see `refusal`), or 0; and seven as take_tokens.lua replies about a special key, beginning with the digest of the
-- user's first key.

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
local shadow = false
if has_shadow(more) then
  local bucket, full, speed = shadow_of(place)
  if not bucket then
    return {}
  end
  local shadow_level = refilled_shared(bucket, full * MICROTOKENS, tonumber(speed))
  shadow = {full, speed, shadow_level, 0}
end
return {
  name, whole(capacity), rate, level, max(elapsed, 0), reason, place:sub(10, -2), left, own_capacity, own_rate, own_level,
  quota_list(quota), shadow,
}
