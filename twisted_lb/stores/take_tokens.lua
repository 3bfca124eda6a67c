-- Give tokens back to some buckets, then take one token from others, each key in the order given.
--   KEYS     the accounts; one may occur many times
--   ARGV[1]  how many KEYS, from the first, get a token back
-- Reply, five elements for each taking:
--   name (nil: no such account), capacity, rate as text, 1 admitted or 0 refused, level in microtokens
-- A refusal writes nothing.

local given_back = tonumber(ARGV[1])
local reply = {}

for i = 1, given_back do
  local fields = call('HMGET', KEYS[i], 'capacity', 'level')
  local capacity, level = tonumber(fields[1]), tonumber(fields[2])
  if capacity and level then
    call('HSET', KEYS[i], 'level', whole(min(level + MICROTOKENS, capacity * MICROTOKENS)))
  end
end

local last = 0
for i = given_back + 1, #KEYS do
  local key = KEYS[i]
  local name, capacity, rate, level, elapsed = refilled(key)
  local admitted = 0
  if name and level >= MICROTOKENS then
    admitted = 1
    level = level - MICROTOKENS
    if elapsed > 0 then
      call('HSET', key, 'level', whole(level), 'stamp', now_text)
    else
      call('HSET', key, 'level', whole(level))
    end
  end
  reply[last + 1] = name or false
  reply[last + 2] = capacity or 0
  reply[last + 3] = rate or 0
  reply[last + 4] = admitted
  reply[last + 5] = level or 0
  last = last + 5
end

return reply
