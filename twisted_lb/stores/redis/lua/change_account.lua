-- Set the policy of an account; the level is kept, and reduced to a smaller capacity.
--   KEYS[1]  one of its keys
--   ARGV     capacity, rate; an empty one is left as it is
-- Reply: nil if there is no account, or the key is revoked; an empty list if the value is not an account; else name,
-- capacity as text, rate as text, level, 0, and why the key must not be used (see `refusal`), or 0: if it must not be used,
-- nothing is changed; then the quota (see `quota_list`).

local reason, place, _, _, _, quota = account_of(KEYS[1])
if reason == nil or reason == REVOKED then
  return false
elseif not reason then
  return {}
end
local name, capacity, rate, level, elapsed = refilled(place)
if reason > 0 then
  return {name, whole(capacity), rate, level, 0, reason, quota_list(quota)}
end
if ARGV[1] ~= '' then
  capacity = tonumber(ARGV[1])
end
if ARGV[2] ~= '' then
  rate = ARGV[2]
end
level = min(level, capacity * MICROTOKENS)
call('HSET', place, 'capacity', whole(capacity), 'rate', rate, 'level', whole(level))
if elapsed > 0 then
  call('HSET', place, 'stamp', now_text)
end
return {name, whole(capacity), rate, level, 0, 0, quota_list(quota)}
