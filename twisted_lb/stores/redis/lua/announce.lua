-- Announce an instance, forget those that are silent, and count the live ones.
--   KEYS[1]  tokenlb:instances, a sorted set: instance id -> last announcement, in microseconds of Redis
--   ARGV     instance id, microseconds of silence after which an instance counts as gone, and the time in the last reply
-- Reply: how many are live; 1 if this one had been forgotten, or is new, else 0; 1 while balancers come back from an
-- outage, so that this one has to take part in that (see rejoin.lua), else 0; the time; and the digests of the keys whose
-- state was changed since the last reply: what was known about them is outdated.
-- A key of another type is replaced; then it is unknown which ones were forgotten, and the reply says that this one was not.

local TOLD = 660000000 -- microseconds for which changes are kept: longer than instances remember keys

local silence = tonumber(ARGV[2])
local wrong = not read('ZCARD', KEYS[1])
if wrong then
  -- Not a key of this program: the others announce themselves again soon.
  call('DEL', KEYS[1])
end
local before = number(call('ZSCORE', KEYS[1], ARGV[1]), 0, LAST_STAMP)
forget_silent(KEYS[1], silence)
call('ZADD', KEYS[1], now_text, ARGV[1])
local known = wrong or before and before >= now - silence
local reply = {living(KEYS[1], silence), known and 0 or 1, outage(read('GET', 'tokenlb:switch')) and 1 or 0, now}
local changed = read('ZRANGEBYSCORE', 'tokenlb:changed_keys', ARGV[3] or now_text, '+inf') or {}
for i = 1, #changed do
  reply[4 + i] = changed[i]
end
if #changed > 0 then
  call('ZREMRANGEBYSCORE', 'tokenlb:changed_keys', '-inf', whole(now - TOLD))
end
return reply
