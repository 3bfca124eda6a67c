-- Say that an instance lives, forget those that are silent, and count the living.
--   KEYS[1]  tokenlb:instances, a sorted set: instance id -> last announcement, in microseconds of Redis
--   ARGV     instance id, microseconds of silence after which an instance is no more
-- Reply: how many live; 1 if this one had been forgotten, or is new, else 0; 1 while balancers come back from an outage,
-- so that this one has to take part in that (see rejoin.lua), else 0.
-- A key of another type is replaced; then nobody knows who was forgotten, and the reply says that this one was not.

local silence = tonumber(ARGV[2])
local wrong = not read('ZCARD', KEYS[1])
if wrong then
  -- Not ours: the others announce themselves again soon.
  call('DEL', KEYS[1])
end
local before = number(call('ZSCORE', KEYS[1], ARGV[1]), 0, LAST_STAMP)
forget_silent(KEYS[1], silence)
call('ZADD', KEYS[1], now_text, ARGV[1])
local known = wrong or before and before >= now - silence
return {living(KEYS[1], silence), known and 0 or 1, outage(read('GET', 'tokenlb:switch')) and 1 or 0}
