-- A whole batch: places in flight freed, tokens charged, then tokens taken, in the order given.
--   KEYS     accounts, any of them many times: those with a request less in flight, those to charge, those to take from
--   ARGV     1  requests in flight of one key, at most (0: any number)     2  the id of this instance
--            3  microseconds of silence after which an instance is no more
--            4  capacity and  5  rate of everyone's bucket (capacity 0: none)
--            6  capacity and  7  rate of the bucket of an address
--            8  microseconds within which a key that was used is in use
--            9  the process that calls    10  the number of the call; no number is used twice by a process
--           11  how many KEYS have a request less in flight    12  how many are charged
--           13  how many extras there are                      14  microtokens to charge to everyone's bucket
--           then the microtokens to charge to each (below zero: to give back)
--           then the extras, three elements each:
--             position of a taking (from 1), its cost in tokens, the network that asks or ''
--             0, 1 to take or 0 to give back a token, the network whose bucket it is
--   A taking without an extra costs one token and has no network.
-- Reply, five elements for each taking, then five for each token taken from a network's bucket; then, where there
-- is one, the level of everyone's bucket; at last the keys that were not what they should be:
--   name (nil: no such account), capacity, rate as text, outcome, level in microtokens
--   Outcomes: 1 admitted; refused by 0 the key's bucket, 2 the requests in flight, 3 everyone's bucket,
--   4 the network's bucket; 5 what is there is not an account.  Name, capacity and rate are those of the account where
--   outcome is 0 to 3, the level is that of the bucket that refused.
--
-- A call whose reply was lost may have been carried out, and may be carried out still.  So tokenlb:last:<process> holds
-- the number up to which nothing is carried out any more, the number of the last call that has changed a bucket, and a
-- digit for each of its takings, 1 where it was admitted (see resolve.lua).
--
-- A call that takes is refused with OUTAGE, and changes nothing, while balancers come back from an outage (rejoin.lua).
-- One that only charges and frees is carried out.
--
-- A key that is not what it should be concerns that key alone.  An account like that is left as it is, for a person to
-- look at; what the balancer can make anew (buckets without an account, counts) is replaced when it is written.
--
-- Every key is read once, when it is first met.  All writes come last, so that a Redis that cannot be written to
-- (read-only, out of memory) fails the call at its first write, and nothing is half done.  What is refused
-- writes nothing.

local in_flight_limit, me, silence, in_use = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[8])
local releases, charges, extras = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])

local last_key = 'tokenlb:last:' .. ARGV[9]
local found = call('MGET', last_key, 'tokenlb:switch')
local before, switch = found[1], found[2]
if before and tonumber(ARGV[10]) <= (tonumber(before:match('^%d+') or '') or 0) then
  return redis.error_reply('STALE this call comes after a later connection of its process')
end
if (#KEYS > releases + charges or extras > 0) and outage(switch) then
  return redis.error_reply('OUTAGE balancers are coming back from an outage, and have not charged what they spent')
end

local DEEPEST = -1e15 -- microtokens; no bucket goes below
local PLACES_TTL = 86400 -- seconds, so that what no instance frees any more is dropped at last

-- A bucket is an array, which is quicker to make than a table of names:
--   its key in Redis, level refilled to now, microseconds since its stamp, level as stored, level when full,
--   how it has changed; and of an account: name, capacity, rate as text
local KEY, LEVEL, ELAPSED, STORED, FULL, CHANGE, NAME, CAPACITY, RATE = 1, 2, 3, 4, 5, 6, 7, 8, 9

-- It has changed not at all, by gifts alone (they need no time, so that its stamp stays), or in any other way.
local SAME, GIVEN, MOVED = 0, 1, 2

local changed = {} -- buckets, in the order in which they changed
local wrong = {} -- keys that are not what they should be

local function mark(bucket, how)
  if bucket[CHANGE] == SAME then
    changed[#changed + 1] = bucket
  end
  bucket[CHANGE] = max(bucket[CHANGE], how)
end

local function charge(bucket, microtokens)
  if microtokens < 0 then
    if min(bucket[LEVEL], bucket[STORED]) < bucket[FULL] then
      bucket[LEVEL] = min(bucket[LEVEL] - microtokens, bucket[FULL])
      bucket[STORED] = min(bucket[STORED] - microtokens, bucket[FULL])
      mark(bucket, GIVEN)
    end
  elseif microtokens > 0 then
    bucket[LEVEL] = max(bucket[LEVEL] - microtokens, DEEPEST)
    mark(bucket, MOVED)
  end
end

local accounts = {} -- key -> bucket, or false

local damaged = {} -- keys of accounts -> true

local function account(key)
  local name, capacity, rate, level, elapsed, stored = refilled(key)
  local bucket = name and {key, level, elapsed, stored, capacity * MICROTOKENS, SAME, name, capacity, rate} or false
  if name == false then
    damaged[key] = true
    wrong[#wrong + 1] = key
  end
  accounts[key] = bucket
  return bucket
end

local replaced = {} -- keys that are removed before they are written

-- A bucket that is full until it is used.
local function shared_bucket(key, capacity, rate)
  local full = capacity * MICROTOKENS
  local fields = read('HMGET', key, 'level', 'stamp')
  local stored = fields and number(fields[1], -MOST_LEVEL, MOST_LEVEL)
  local stamp = fields and number(fields[2], 0, LAST_STAMP)
  if not (stored and stamp) then
    if not fields or fields[1] or fields[2] then
      replaced[key] = true
      wrong[#wrong + 1] = key
    end
    return {key, full, 1, full, full, SAME}
  end
  local elapsed = now - stamp
  -- The capacity may have been set to less since.
  return {key, min(refill(stored, elapsed, rate, full), full), elapsed, min(stored, full), full, SAME}
end

local everyone = nil
if tonumber(ARGV[4]) > 0 then
  everyone = shared_bucket('tokenlb:global', tonumber(ARGV[4]), tonumber(ARGV[5]))
  charge(everyone, tonumber(ARGV[14]))
end

local addresses = {} -- network -> bucket
local address_capacity, address_rate = tonumber(ARGV[6]), tonumber(ARGV[7])

local function address(network)
  local bucket = addresses[network]
  if not bucket then
    bucket = shared_bucket('tokenlb:address:' .. network, address_capacity, address_rate)
    addresses[network] = bucket
  end
  return bucket
end

local places = {} -- account key -> requests in flight
local alive = nil -- ids of the instances that live

local function place(key)
  local found = places[key]
  if found then
    return found
  end
  if not alive then
    alive = {[me] = true}
    local ids = read('ZRANGEBYSCORE', 'tokenlb:instances', whole(now - silence), whole(now + silence)) or {}
    for i = 1, #ids do
      alive[ids[i]] = true
    end
  end
  found = {key = 'tokenlb:in_flight:' .. key:sub(9), all = 0, mine = 0, stored = 0, dead = {}}
  local fields = read('HGETALL', found.key)
  if not fields then
    replaced[found.key] = true
    wrong[#wrong + 1] = found.key
    fields = {}
  end
  for i = 1, #fields, 2 do
    local id, count = fields[i], number(fields[i + 1], 0, MOST_CAPACITY) or 0
    if not alive[id] then
      found.dead[#found.dead + 1] = id
    else
      found.all = found.all + count
      if id == me then
        found.mine, found.stored = count, count
      end
    end
  end
  places[key] = found
  return found
end

-- 1. Places in flight are freed.

for i = 1, releases do
  local found = place(KEYS[i])
  if found.mine > 0 then
    found.mine, found.all = found.mine - 1, found.all - 1
  end
end

-- 2. Tokens are charged or given back.

for i = 1, charges do
  local key = KEYS[releases + i]
  local bucket = accounts[key]
  if bucket == nil then
    bucket = account(key)
  end
  if bucket then
    charge(bucket, tonumber(ARGV[14 + i]))
  end
end

-- 3. What is special about some takings; and the buckets of addresses alone.

local first = releases + charges
local reply = {}
local last = 5 * (#KEYS - first)
local costs, networks = nil, nil
for i = 15 + charges, 14 + charges + 3 * extras, 3 do
  local position, cost, network = tonumber(ARGV[i]), tonumber(ARGV[i + 1]), ARGV[i + 2]
  if position > 0 then
    costs, networks = costs or {}, networks or {}
    costs[position] = cost * MICROTOKENS
    networks[position] = network ~= '' and network or nil
  else
    local bucket = address(network)
    if cost == 0 then
      charge(bucket, -MICROTOKENS)
    else
      local outcome = 4
      if bucket[LEVEL] >= MICROTOKENS then
        outcome = 1
        charge(bucket, MICROTOKENS)
      end
      reply[last + 1], reply[last + 2], reply[last + 3] = '', address_capacity, ARGV[7]
      reply[last + 4], reply[last + 5] = outcome, bucket[LEVEL]
      last = last + 5
    end
  end
end

-- 4. Tokens are taken.

local size = last
local outcomes = {}
last = 0
for i = first + 1, #KEYS do
  local key, cost, bucket, level, outcome = KEYS[i], MICROTOKENS, nil, nil, nil
  local network = nil
  if costs and costs[i - first] then
    cost = costs[i - first]
    network = networks[i - first]
  end
  bucket = accounts[key]
  if bucket == nil then
    bucket = account(key)
  end
  -- A key that is in use is no guess, wherever it comes from.
  local guessed = network and not (bucket and bucket[ELAPSED] <= in_use)
  if guessed and address(network)[LEVEL] < MICROTOKENS then
    reply[last + 1], reply[last + 2], reply[last + 3] = '', address_capacity, ARGV[7]
    outcome, level = 4, address(network)[LEVEL]
  else
    if not bucket then
      if network then
        charge(address(network), MICROTOKENS)
      end
      reply[last + 1], reply[last + 2], reply[last + 3], outcome, level = false, 0, 0, damaged[key] and 5 or 0, 0
    else
      reply[last + 1], reply[last + 2], reply[last + 3] = bucket[NAME], bucket[CAPACITY], bucket[RATE]
      level = bucket[LEVEL]
      if level < cost then
        outcome = 0
      elseif in_flight_limit > 0 and place(key).all >= in_flight_limit then
        outcome, level = 2, 0
      elseif everyone and everyone[LEVEL] < cost then
        outcome, level = 3, everyone[LEVEL]
      else
        outcome, level = 1, level - cost
        bucket[LEVEL] = level
        -- As `mark` does: a call of a function costs here.
        if bucket[CHANGE] == SAME then
          changed[#changed + 1] = bucket
        end
        bucket[CHANGE] = MOVED
        if everyone then
          everyone[LEVEL] = everyone[LEVEL] - cost
          if everyone[CHANGE] ~= MOVED then
            mark(everyone, MOVED)
          end
        end
        if in_flight_limit > 0 then
          local found = places[key]
          found.mine, found.all = found.mine + 1, found.all + 1
        end
      end
    end
  end
  outcomes[i - first] = outcome == 1 and '1' or '0'
  reply[last + 4], reply[last + 5] = outcome, level
  last = last + 5
end

if everyone then
  reply[size + 1] = everyone[LEVEL]
  size = size + 1
end
for i = 1, #wrong do
  reply[size + i] = wrong[i]
end

-- 5. The writing.

if #changed > 0 then
  call('SET', last_key, ARGV[10] .. ' ' .. ARGV[10] .. ' ' .. table.concat(outcomes), 'EX', LAST_TTL)
end

for i = 1, #changed do
  local bucket = changed[i]
  if replaced[bucket[KEY]] then
    call('DEL', bucket[KEY])
    call('HSET', bucket[KEY], 'level', whole(bucket[LEVEL]), 'stamp', now_text)
  elseif bucket[CHANGE] == GIVEN then
    call('HSET', bucket[KEY], 'level', whole(bucket[STORED]))
  elseif bucket[ELAPSED] > 0 then
    call('HSET', bucket[KEY], 'level', whole(bucket[LEVEL]), 'stamp', now_text)
  else
    call('HSET', bucket[KEY], 'level', whole(bucket[LEVEL]))
  end
end

for _, bucket in pairs(addresses) do
  if bucket[CHANGE] ~= SAME and address_rate > 0 then
    -- Not before it is full again: from its stamp, which may be ahead of a clock that went back.
    local missing = bucket[FULL] - min(bucket[LEVEL], bucket[STORED])
    local milliseconds = (missing / address_rate - min(bucket[ELAPSED], 0)) / 1000
    if milliseconds < 1e15 then
      call('PEXPIRE', bucket[KEY], whole(floor(milliseconds) + 2000))
    else
      call('PERSIST', bucket[KEY])
    end
  end
end

for _, found in pairs(places) do
  if found.mine ~= found.stored then
    if replaced[found.key] then
      call('DEL', found.key)
    elseif #found.dead > 0 then
      call('HDEL', found.key, unpack(found.dead))
    end
    if found.mine > 0 then
      call('HSET', found.key, me, found.mine)
      call('EXPIRE', found.key, PLACES_TTL)
    else
      call('HDEL', found.key, me)
    end
  end
end

return reply
