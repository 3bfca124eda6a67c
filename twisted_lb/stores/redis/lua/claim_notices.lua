-- Claim notices that are due; no other balancer gets them before the lease is over.  This also reports that notices are
-- wanted: take_tokens.lua makes them as long as tokenlb:webhook exists.
--   KEYS[1]  tokenlb:webhook, a string, expires WANTED seconds after the last call
--   KEYS[2]  tokenlb:notices, a hash: id -> threshold, time, used, start and end of the period, the quota (four words), name
--   KEYS[3]  tokenlb:notices_due, a sorted set: id -> when it is due, in microseconds
--   KEYS[4]  tokenlb:webhook_gone, a string: the digest of the URL of a webhook that wants no more, expires after GONE
--   ARGV     how many at most, microseconds of the lease, the digest of the caller's URL, and 'begins' at its first call,
--            'gone' when it wants no more notices, or ''
-- Reply: an id and its text for each.
--
-- Notices of no use are removed: those of users that were deleted, and those that no balancer has sent or given up within
-- KEPT seconds (six hours, an hour to the last attempt, and one to spare).  The keys expire if this is not called for so
-- long that everything in them is that old.

local WANTED = 3600
local GONE = 86400
local KEPT = 8 * 3600
local LOOKED_AT = 100 -- in addition to those that are asked for

for i, command in ipairs({'STRLEN', 'HLEN', 'ZCARD', 'STRLEN'}) do
  if not read(command, KEYS[i]) then
    -- Not a key of this program.
    call('DEL', KEYS[i])
  end
end
local most, webhook, news = tonumber(ARGV[1]), ARGV[3], ARGV[4]
if news == 'gone' then
  call('SET', KEYS[4], webhook, 'EX', GONE)
  -- Another balancer with another URL reports at its next call that notices are wanted.
  call('DEL', KEYS[1])
end
local gone = call('GET', KEYS[4]) == webhook
if gone and news == 'begins' then
  call('DEL', KEYS[4])
  gone = false
end
if gone then
  most = 0
else
  call('SET', KEYS[1], '1', 'EX', WANTED)
end
call('EXPIRE', KEYS[2], WANTED + KEPT)
call('EXPIRE', KEYS[3], WANTED + KEPT)

local function is_of_use(text)
  local time, name = text:match('^%d+ (%d+) %d+ %d+ %d+ %d+ %l+ %l+ %S+ (.+)$')
  if not time then
    -- Damaged: it is logged.
    return true
  end
  local found = read('ZRANGEBYLEX', 'tokenlb:names', '[' .. name .. '\0', '(' .. name .. '\1', 'LIMIT', 0, 1)
  return now - tonumber(time) <= KEPT * 1000000 and (not found or found[1] ~= nil)
end

local reply = {}
for _, id in ipairs(call('ZRANGEBYSCORE', KEYS[3], '-inf', now_text, 'LIMIT', 0, most + LOOKED_AT)) do
  local text = call('HGET', KEYS[2], id)
  if not text or not is_of_use(text) then
    call('ZREM', KEYS[3], id)
    call('HDEL', KEYS[2], id)
  elseif #reply < 2 * most then
    call('ZADD', KEYS[3], whole(now + ARGV[2]), id)
    reply[#reply + 1], reply[#reply + 2] = id, text
  end
end
return reply
