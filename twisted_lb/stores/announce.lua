-- Say that an instance lives, forget those that are silent, and count the living.
--   KEYS[1]  tokenlb:instances, a sorted set: instance id -> last announcement, in microseconds of Redis
--   ARGV     instance id, microseconds of silence after which an instance is no more; ids that it had before
-- Reply: how many live; 1 if this one had been forgotten, or is new, else 0; and, of one that comes back under a new
-- id, how many microseconds before it the first one came back.
-- A key of another type is replaced; then nobody knows who was forgotten, and the reply says that this one was not.
-- An announcement of the future is from before the clock of Redis went back: it is no sign of life for ever.

local silence = tonumber(ARGV[2])
local wrong = not read('ZCARD', KEYS[1])
if wrong then
  -- Not ours: the others announce themselves again soon.
  call('DEL', KEYS[1])
end
local added = call('ZADD', KEYS[1], now_text, ARGV[1])
for i = 3, #ARGV do
  call('ZREM', KEYS[1], ARGV[i])
end
call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. whole(now - silence))
call('ZREMRANGEBYSCORE', KEYS[1], '(' .. whole(now + silence), '+inf')
local late = 0
if ARGV[3] then
  late = now - (number(read('GET', 'tokenlb:back'), 0, LAST_STAMP) or 0)
  if late < 0 or late > silence then
    late = 0
    call('SET', 'tokenlb:back', now_text, 'PX', whole(floor(silence / 1000) + 1))
  end
end
return {call('ZCARD', KEYS[1]), wrong and 0 or added, late}
