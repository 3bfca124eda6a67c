-- Begin the next period of a quota, if this one is over: see limits/quota_count.py.  May be repeated.
--   KEYS[1]  the user's record
--   ARGV     the quota as it was when a balancer found its period over; start and end of the period that contains the time
-- Reply: 1 the period is not over now, 0 the quota is not this one any more, 2 the time is not in the period given.

local quota = quota_at(KEYS[1])
if not quota or quota.text ~= ARGV[1] then
  return 0
end
if now < quota.ends then
  return 1
end
local starts, ends = tonumber(ARGV[2]), tonumber(ARGV[3])
if not (starts <= now and now < ends) then
  return 2
end
if quota.ends == 0 then
  call('HSET', KEYS[1], 'quota_starts', whole(starts), 'quota_ends', whole(ends))
elseif starts < quota.ends then
  -- Computed with another version of the time zone database: there is no new quota for a part of a period.
  call('HSET', KEYS[1], 'quota_ends', whole(ends))
else
  call('HSET', KEYS[1], 'quota_used', 0, 'quota_told', 0, 'quota_starts', whole(starts), 'quota_ends', whole(ends))
end
return 1
