-- Notices that are due; nobody else gets them before the lease is over.  Also says that somebody takes notices:
-- take_tokens.lua makes them for as long as tokenlb:webhook is there.
--   KEYS[1]  tokenlb:webhook, a string, expires WANTED seconds after the last call
--   KEYS[2]  tokenlb:notices, a hash: id -> threshold, time, used, start and end of the period, the quota (four words), name
--   KEYS[3]  tokenlb:notices_due, a sorted set: id -> when it is due, in microseconds
--   ARGV     how many at most, microseconds of the lease
-- Reply: an id and its text for each.

local WANTED = 3600

for i, command in ipairs({'STRLEN', 'HLEN', 'ZCARD'}) do
  if not read(command, KEYS[i]) then
    -- Not ours.
    call('DEL', KEYS[i])
  end
end
call('SET', KEYS[1], '1', 'EX', WANTED)
local reply = {}
for _, id in ipairs(call('ZRANGEBYSCORE', KEYS[3], '-inf', now_text, 'LIMIT', 0, ARGV[1])) do
  local text = call('HGET', KEYS[2], id)
  if text then
    call('ZADD', KEYS[3], whole(now + ARGV[2]), id)
    reply[#reply + 1], reply[#reply + 2] = id, text
  else
    call('ZREM', KEYS[3], id)
  end
end
return reply
