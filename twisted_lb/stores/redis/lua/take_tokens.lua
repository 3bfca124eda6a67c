-- One batch: requests in flight are released, tokens are charged, then tokens are taken, in the order given.
--   KEYS     accounts, each any number of times: those with one request in flight less, those to charge, those to take from
--   ARGV     1  requests in flight of one key, at most (0: any number)     2  the id of this instance
--            3  microseconds of silence after which an instance counts as gone
--            4  capacity and  5  rate of the global bucket (capacity 0: none)
--            6  capacity and  7  rate of the bucket of an address
--            8  microseconds within which a key that was used is in use
--            9  the process that calls    10  the number of the call; no number is used twice by a process
--           11  how many KEYS have one request in flight less    12  how many are charged
--           13  how many extras there are                      14  microtokens to charge to the global bucket
--           15  how many shared buckets are named: those of routes, pools and networks
--           then the microtokens to charge to each (below zero: to refund)
--           then the extras, three elements each:
--             position of a taking (from 1), its cost in tokens, the network that asks or ''
--             -1, as the first extra: the charges are for the buckets of users, and not for the keys' own
--             -1 - position of a charge, 0, what the user's quota is charged: unit, start and end of the period, and how
--             much (below zero: it is refunded)
--           then, if there are shared buckets (see shared_part.py):
--             how many of them are charged, and how many takings need tokens of them
--             three elements for each bucket: its key without `tokenlb:`, capacity and rate
--             two for each charge: the number of the bucket (from 1), microtokens (below zero: to refund)
--             for each taking: its position, or 0 if it has no key; its cost in tokens if it has none; how many buckets
--             it needs tokens of, and their numbers, below zero for shadows, which come last
--   A taking without an extra costs one token and has no network.
-- Reply, five elements for each taking with a key, then five for each one without; then, for each taking that needs
-- tokens of shared buckets, their levels, and after that of a shadow 1 if it would have refused an admitted taking, else
-- 0; then, if there is one, the level of the global bucket; finally the keys with a wrong type or value:
--   name (nil: no such account), capacity, rate as text, outcome, level in microtokens
--   Outcomes: 1 admitted; refused by 0 the user's bucket, 2 the requests in flight, 3 the global bucket,
--   4 the network's bucket, 6 and above the shared bucket of this place (6 is the first); 5 the value is not an
--   account; 90 to 92 see `refusal`; 93 the key's own bucket; 94 the quota; 95 the period of the quota is over: it has to be
--   renewed (renew_quota.lua), and the request sent again.  Name, capacity and rate are those of the account where
--   there is one, the level is that of the bucket that refused.
--   A revoked key is answered like an unknown one.
--   For a key that is not the only one of its user, expires or has a bucket of its own, or whose user has a quota or a shadow
--   policy, 100 is added unless the network's bucket refuses or the key must not be used, and the name is a list of eight:
--   name, digest of the user's first key, microseconds until the key expires (0: it does not), of its own bucket capacity
--   (0: none), rate as text, level; the quota (see `quota_list`); and the shadow policy, nil for none: a list of its
--   capacity, rate as text, level, and 1 if it would have refused an admitted taking, else 0.
--
-- A call whose reply was lost may have been executed, or may still be executed.  So tokenlb:last:<process> holds the number
-- up to which no call is executed any more, the number of the last call that has changed a bucket, and a digit for each of
-- its takings, those without a key last: 0 refused, 1 admitted, 2 admitted and tokens taken from the shadow policy of the
-- user; then, if there are shadows among the shared buckets, a digit for each of them, in the order of the arguments: 1 if
-- tokens were taken from it (see resolve.lua).
--
-- A call that takes is refused with OUTAGE, and changes nothing, while balancers come back from an outage (rejoin.lua).
-- One that only charges and releases is executed.
--
-- A key with a wrong type or value affects only itself.  Such an account is left as it is, for the operator; what can be
-- made again (buckets without an account, counts) is replaced when it is written.
--
-- Every key is read once, when it is first needed.  All writes come last, so that a Redis that cannot be written to
-- (read-only, out of memory) fails the call at its first write, and nothing is half done.  Refusals write nothing.

local in_flight_limit, me, silence, in_use = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[8])
local releases, charges, extras = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local shared_count, shared_charges, limited_takings = tonumber(ARGV[15]), 0, 0
local shared_part = 16 + charges + 3 * extras -- where it begins
if shared_count > 0 then
  shared_charges, limited_takings = tonumber(ARGV[shared_part]), tonumber(ARGV[shared_part + 1])
end

local last_key = 'tokenlb:last:' .. ARGV[9]
local found = call('MGET', last_key, 'tokenlb:switch')
local before, switch = found[1], found[2]
if before and tonumber(ARGV[10]) <= (tonumber(before:match('^%d+') or '') or 0) then
  return redis.error_reply('STALE this call comes after a later connection of its process')
end
if (#KEYS > releases + charges or limited_takings > 0) and outage(switch) then
  return redis.error_reply('OUTAGE balancers are coming back from an outage, and have not charged what they spent')
end

local DEEPEST = -1e15 -- microtokens; no bucket goes below
local PLACES_TTL = 86400 -- seconds, so that counts that no instance releases any more are finally dropped
local SHADOW_TTL = 2592000 -- seconds after which an unused shadow bucket that would never be full again counts as full

-- A bucket is an array, which is faster to make than a table with names:
--   its key in Redis, level refilled to now, microseconds since its stamp, level as stored, level when full,
--   how it has changed; and of an account: name, capacity, rate as text; or of a shared bucket: its rate
local KEY, LEVEL, ELAPSED, STORED, FULL, CHANGE, NAME, CAPACITY, RATE = 1, 2, 3, 4, 5, 6, 7, 8, 9
local SHARED_RATE = 7

-- It has not changed, only by refunds (which keep its stamp), or in any other way.
local SAME, GIVEN, MOVED = 0, 1, 2

local changed = {} -- buckets, in the order in which they changed
local wrong = {} -- keys with a wrong type or value

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

-- Even at a cost of 0 it is stored, refilled to now, as in twisted_lb/limits/bucket.py.
local function take(bucket, microtokens)
  bucket[LEVEL] = bucket[LEVEL] - microtokens
  mark(bucket, MOVED)
end

local replaced = {} -- keys that are removed before they are written

local function shared_bucket(key, capacity, rate)
  local full = capacity * MICROTOKENS
  local level, elapsed, stored, other = refilled_shared(key, full, rate)
  if other then
    replaced[key] = true
    wrong[#wrong + 1] = key
  end
  return {key, level, elapsed, stored, full, SAME, rate}
end

local everyone = nil
if tonumber(ARGV[4]) > 0 then
  everyone = shared_bucket('tokenlb:global', tonumber(ARGV[4]), tonumber(ARGV[5]))
  charge(everyone, tonumber(ARGV[14]))
end

local shared = {} -- key -> bucket of a route, a pool or a network, or a key's own

local function shared_of(key, capacity, rate)
  local bucket = shared[key]
  if not bucket then
    bucket = shared_bucket(key, capacity, rate)
    shared[key] = bucket
  end
  return bucket
end

local address_capacity, address_rate = tonumber(ARGV[6]), tonumber(ARGV[7])

local function address(network)
  return shared_of('tokenlb:address:' .. network, address_capacity, address_rate)
end

local accounts = {} -- key -> bucket; false if there is no account, or something is special about the key

local damaged = {} -- keys of accounts -> true

local specials = {} -- key -> what is special about it

local account

-- What is special about a key: the bucket of its user, why it is refused, its own bucket, and of its user the shadow,
-- {bucket, capacity, rate as text}, and the quota.
local function special(key, owner, bucket, user, state, expires, own, capacity, rate, shadow, quota)
  local found = {bucket = bucket, owner = owner, user = user, shadow = shadow, quota = quota}
  found.refused = refusal(user, state, expires)
  found.left = expires > 0 and max(expires - now, 1) or 0
  if own then
    found.capacity, found.rate = own_policy(capacity, rate)
    if not found.capacity then
      return nil
    end
    found.own = shared_of('tokenlb:key_bucket:' .. key:sub(9), found.capacity, tonumber(found.rate))
  end
  return found
end

-- The same for a further key; nil if there is none.
local function further_special(key)
  local owner, text, capacity, rate = further(key)
  if not owner then
    return nil
  end
  local bucket, user, shadow, quota = accounts[owner], 'active', nil, nil
  if bucket == nil then
    bucket = account(owner)
  end
  if not bucket then
    local first = specials[owner]
    -- A key whose owner is a further key has no user.
    if not first or first.owner ~= owner then
      return nil
    end
    bucket, user, shadow, quota = first.bucket, first.user, first.shadow, first.quota
  end
  local _, state, expires, own = states(text)
  return state and special(key, owner, bucket, user, state, expires, own, capacity, rate, shadow, quota)
end

function account(key)
  local name, capacity, rate, level, elapsed, stored, text = refilled(key)
  local bucket = name and {key, level, elapsed, stored, capacity * MICROTOKENS, SAME, name, capacity, rate} or false
  if bucket and not text then
    accounts[key] = bucket
    return bucket
  end
  -- A key that is its own owner has no user either.
  accounts[key] = false
  if name == nil then
    return false
  end
  local found
  if bucket then
    local user, state, expires, own, more = states(text)
    local policy = own and call('HMGET', key, 'key_capacity', 'key_rate') or {}
    local shadow, quota = nil, nil
    if user and has_shadow(more) then
      local place, full, speed = shadow_of(key)
      shadow, user = place and {shared_of(place, full, tonumber(speed)), full, speed}, place and user
    end
    if user and has_quota(more) then
      quota = quota_at(key)
      user = quota and user
    end
    found = user and special(key, key, bucket, user, state, expires, own, policy[1], policy[2], shadow, quota)
  else
    found = further_special(key)
  end
  if found then
    specials[key] = found
  else
    damaged[key] = true
    wrong[#wrong + 1] = key
  end
  return false
end

local places = {} -- account key -> requests in flight
local alive = nil -- ids of the live instances

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

-- 1. Requests in flight are released.

for i = 1, releases do
  local found = place(KEYS[i])
  if found.mine > 0 then
    found.mine, found.all = found.mine - 1, found.all - 1
  end
end

-- 2. What is special about some takings and charges.

local first = releases + charges
local costs, networks = nil, nil
local quota_charges = nil -- position of a charge -> what it says
local charge_quota = nil
local of_users = false
local quotas = nil -- those of which something was used or refunded

-- Creating functions takes time, so this one is created only if it is needed.
if extras > 0 then
  for i = 16 + charges, 15 + charges + 3 * extras, 3 do
    local position, network = tonumber(ARGV[i]), ARGV[i + 2]
    if position == -1 then
      of_users = true
    elseif position < 0 then
      quota_charges = quota_charges or {}
      quota_charges[-1 - position] = network
    else
      costs, networks = costs or {}, networks or {}
      costs[position] = tonumber(ARGV[i + 1]) * MICROTOKENS
      networks[position] = network ~= '' and network or nil
    end
  end

  charge_quota = function(quota, text)
    local unit, starts, ends, amount = text:match('^(%l+) (%d+) (%d+) (-?%d+)$')
    starts, ends, amount = tonumber(starts), tonumber(ends), tonumber(amount)
    if unit ~= quota.unit or amount < 0 and starts ~= quota.starts then
      return
    end
    if of_users and starts ~= quota.starts and quota.ends > 0 then
      if starts < quota.ends then
        -- It was within the quota of a period that is over.
        return
      end
      quota.used, quota.told, quota.starts, quota.ends = 0, 0, starts, ends
    elseif not of_users and amount > 0 and quota.ends > 0 and now >= quota.ends then
      -- It counts in the period that has begun, which the next request will determine.
      quota.used, quota.told, quota.starts, quota.ends = 0, 0, 0, 0
    end
    quota.used = min(max(quota.used + amount, 0), MOST_USED)
    quotas = quotas or {}
    quotas[quota.place] = quota
  end
end

-- 3. Tokens are charged or refunded.

for i = 1, charges do
  local key = KEYS[releases + i]
  local bucket = accounts[key]
  if bucket == nil then
    bucket = account(key)
  end
  local found = not bucket and specials[key]
  if bucket then
    charge(bucket, tonumber(ARGV[15 + i]))
  elseif found then
    charge(found.bucket, tonumber(ARGV[15 + i]))
    if found.own and not of_users then
      charge(found.own, tonumber(ARGV[15 + i]))
    end
    if found.quota and quota_charges and quota_charges[i] then
      charge_quota(found.quota, quota_charges[i])
    end
  end
end

-- 4. Shared buckets: charges, and takings without a key.

local reply = {}
local size = 5 * (#KEYS - first)
local outcomes = {}
local limited = nil -- the takings that need tokens of shared buckets, in their order: arrays of buckets, and `levels`
local limits_of = nil -- position of a taking -> the one of `limited`
local with_shadows = false -- among these
local refusing, take_from, take_shadows, note_levels = nil, nil, nil, nil

-- Creating functions takes time, so these are created only if they are needed.
if shared_count > 0 then
  -- The place of the first of these buckets that has less than the cost; nil: none.
  refusing = function(buckets, cost)
    for i = 1, #buckets do
      if buckets[i][LEVEL] < cost then
        return i
      end
    end
    return nil
  end

  take_from = function(buckets, cost)
    for i = 1, #buckets do
      take(buckets[i], cost)
    end
  end

  -- Ask the shadows of an admitted taking; their decisions are for `note_levels`.
  take_shadows = function(buckets, cost)
    local shadows = buckets.shadows
    for i = 1, #shadows do
      local has_tokens = shadows[i][LEVEL] >= cost
      if has_tokens then
        take(shadows[i], cost)
      end
      shadows.said[i] = has_tokens and 0 or 1
    end
  end

  note_levels = function(buckets)
    local levels = {}
    for i = 1, #buckets do
      levels[i] = buckets[i][LEVEL]
    end
    local shadows = buckets.shadows
    for i = 1, shadows and #shadows or 0 do
      levels[#levels + 1], levels[#levels + 2] = shadows[i][LEVEL], shadows.said[i] or 0
    end
    buckets.levels = levels
  end

  local at = shared_part + 2
  local named = {}
  for i = 1, shared_count do
    named[i] = shared_of('tokenlb:' .. ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]))
    at = at + 3
  end
  for _ = 1, shared_charges do
    charge(named[tonumber(ARGV[at])], tonumber(ARGV[at + 1]))
    at = at + 2
  end
  limited, limits_of = {}, {}
  local without_key = 0
  for i = 1, limited_takings do
    local position, cost, count = tonumber(ARGV[at]), tonumber(ARGV[at + 1]) * MICROTOKENS, tonumber(ARGV[at + 2])
    local buckets = {}
    for j = 1, count do
      local place = tonumber(ARGV[at + 2 + j])
      if place > 0 then
        buckets[j] = named[place]
      else
        local shadows = buckets.shadows or {said = {}}
        shadows[#shadows + 1] = named[-place]
        buckets.shadows, with_shadows = shadows, true
      end
    end
    at = at + 3 + count
    limited[i] = buckets
    if position > 0 then
      limits_of[position] = buckets
    else
      local refused = refusing(buckets, cost)
      local outcome = refused and 5 + refused or 1
      if not refused then
        take_from(buckets, cost)
        if buckets.shadows then
          take_shadows(buckets, cost)
        end
      end
      note_levels(buckets)
      without_key = without_key + 1
      outcomes[#KEYS - first + without_key] = refused and '0' or '1'
      reply[size + 1], reply[size + 2], reply[size + 3], reply[size + 4] = '', 0, '0', outcome
      reply[size + 5] = buckets.levels[refused or 1]
      size = size + 5
    end
  end
end

-- 5. Tokens are taken.

local last = 0
for i = first + 1, #KEYS do
  local key, cost, bucket, level, outcome, found = KEYS[i], MICROTOKENS, nil, nil, nil, nil
  local network, shadow_said, admitted = nil, nil, '1'
  if costs and costs[i - first] then
    cost = costs[i - first]
    network = networks[i - first]
  end
  local limits = limits_of and limits_of[i - first]
  bucket = accounts[key]
  if bucket == nil then
    bucket = account(key)
  end
  if not bucket then
    found = specials[key]
    bucket = found and found.refused ~= REVOKED and found.bucket
  end
  -- A key that is in use is not a guess, wherever it comes from.
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
      local quota = found and found.quota
      local need = quota and (quota.unit == 'tokens' and cost / MICROTOKENS or 1)
      if found and found.refused then
        outcome, level = found.refused, 0
      elseif quota and now >= quota.ends then
        outcome, level = 95, 0
      elseif level < cost then
        outcome = 0
      elseif found and found.own and found.own[LEVEL] < cost then
        outcome, level = 93, found.own[LEVEL]
      elseif quota and quota.used + need > quota.amount then
        outcome, level = 94, 0
      elseif in_flight_limit > 0 and place(key).all >= in_flight_limit then
        outcome, level = 2, 0
      elseif limits and refusing(limits, cost) then
        local refused = refusing(limits, cost)
        outcome, level = 5 + refused, limits[refused][LEVEL]
      elseif everyone and everyone[LEVEL] < cost then
        outcome, level = 3, everyone[LEVEL]
      else
        outcome, level = 1, level - cost
        bucket[LEVEL] = level
        -- As `mark` does, without a function call, which takes time here.
        if bucket[CHANGE] == SAME then
          changed[#changed + 1] = bucket
        end
        bucket[CHANGE] = MOVED
        if found then
          if found.own then
            take(found.own, cost)
          end
          local shadow = found.shadow and found.shadow[1]
          shadow_said = shadow and shadow[LEVEL] < cost and 1 or 0
          if shadow and shadow_said == 0 then
            take(shadow, cost)
            admitted = '2'
          end
        end
        if quota then
          quota.used = quota.used + need
          quotas = quotas or {}
          quotas[quota.place] = quota
        end
        if everyone then
          everyone[LEVEL] = everyone[LEVEL] - cost
          if everyone[CHANGE] ~= MOVED then
            mark(everyone, MOVED)
          end
        end
        if limits then
          take_from(limits, cost)
          if limits.shadows then
            take_shadows(limits, cost)
          end
        end
        if in_flight_limit > 0 then
          local mine = places[key]
          mine.mine, mine.all = mine.mine + 1, mine.all + 1
        end
      end
    end
  end
  if limits then
    note_levels(limits)
  end
  outcomes[i - first] = outcome == 1 and admitted or '0'
  if found and bucket and not found.refused and outcome ~= 4 then
    local own, shadow = found.own, found.shadow
    reply[last + 1] = {
      bucket[NAME], found.owner:sub(10, -2), found.left, own and found.capacity or 0, own and found.rate or 0,
      own and own[LEVEL] or 0, quota_list(found.quota),
      shadow and {shadow[2], shadow[3], shadow[1][LEVEL], shadow_said or 0} or false,
    }
    outcome = outcome + 100
  end
  reply[last + 4], reply[last + 5] = outcome, level
  last = last + 5
end

for i = 1, limited_takings do
  local levels = limited[i].levels
  for j = 1, #levels do
    reply[size + j] = levels[j]
  end
  size = size + #levels
end
if everyone then
  reply[size + 1] = everyone[LEVEL]
  size = size + 1
end
for i = 1, #wrong do
  reply[size + i] = wrong[i]
end

-- 6. The thresholds of quotas: notices are made while they are wanted (claim_notices.lua).

local notices = nil -- of two elements: the quota and the threshold
if quotas then
  for _, quota in pairs(quotas) do
    -- They name the period, so it must be determined.
    for threshold = 80, quota.ends > 0 and 100 or 0, 20 do
      if threshold > quota.told and quota.used * 100 >= quota.amount * threshold and call('EXISTS', 'tokenlb:webhook') == 1 then
        quota.told = threshold
        notices = notices or {}
        notices[#notices + 1] = {quota, threshold}
      end
    end
  end
end
if notices then
  for command, key in pairs({HLEN = 'tokenlb:notices', ZCARD = 'tokenlb:notices_due'}) do
    if not read(command, key) then
      replaced[key] = true
      wrong[#wrong + 1] = key
      reply[#reply + 1] = key
    end
  end
end

-- 7. The writes.

if #changed > 0 or quotas then
  if with_shadows then
    outcomes[#outcomes + 1] = ' '
    for i = 1, limited_takings do
      local shadows = limited[i].shadows
      for j = 1, shadows and #shadows or 0 do
        outcomes[#outcomes + 1] = shadows.said[j] == 0 and '1' or '0'
      end
    end
  end
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

if quotas then
  for place, quota in pairs(quotas) do
    call(
      'HSET', place, 'quota_used', whole(quota.used), 'quota_starts', whole(quota.starts), 'quota_ends',
      whole(quota.ends), 'quota_told', quota.told
    )
  end
end

if notices then
  for _, key in ipairs({'tokenlb:notices', 'tokenlb:notices_due'}) do
    if replaced[key] then
      call('DEL', key)
    end
  end
  for _, notice in ipairs(notices) do
    local quota, threshold = notice[1], notice[2]
    local id = 'msg_' .. redis.sha1hex(quota.place:sub(10, -2) .. ' ' .. whole(quota.starts) .. ' ' .. threshold)
    local said = {
      threshold, now_text, whole(quota.used), whole(quota.starts), whole(quota.ends), quota.text,
      call('HGET', quota.place, 'name'),
    }
    call('HSET', 'tokenlb:notices', id, table.concat(said, ' '))
    call('ZADD', 'tokenlb:notices_due', now_text, id)
  end
end

for _, bucket in pairs(shared) do
  if bucket[CHANGE] ~= SAME then
    -- When it is full again, counted from its stamp, which may be ahead of a clock that was set back.
    local missing = bucket[FULL] - min(bucket[LEVEL], bucket[STORED])
    local refilled_in = missing > 0 and missing / bucket[SHARED_RATE] or 0
    local milliseconds = (refilled_in - min(bucket[ELAPSED], 0)) / 1000
    if milliseconds < 1e15 then
      call('PEXPIRE', bucket[KEY], whole(floor(milliseconds) + 2000))
    elseif bucket[KEY]:sub(1, 22) == 'tokenlb:shadow_bucket:' then
      -- A late charge may create it again when the user has no shadow policy any more.
      call('EXPIRE', bucket[KEY], SHADOW_TTL)
    else
      -- It never expires, for example at a rate of 0; it may have had another rate before.
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
