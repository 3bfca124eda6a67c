-- Remove a notice, or make it due later.
--   KEYS[1]  tokenlb:notices      KEYS[2]  tokenlb:notices_due, see claim_notices.lua
--   ARGV     its id, and after how many microseconds it is due again ('': it is removed)
-- Reply: 1 if it existed, else 0.

if ARGV[2] == '' then
  call('ZREM', KEYS[2], ARGV[1])
  return call('HDEL', KEYS[1], ARGV[1])
end
if call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return 0
end
call('ZADD', KEYS[2], whole(now + ARGV[2]), ARGV[1])
return 1
