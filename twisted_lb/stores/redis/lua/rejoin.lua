-- An instance comes back from an outage, or is new: whether it may take from the buckets of Redis, and if not, when.
--   KEYS[1]  tokenlb:instances, see announce.lua
--   KEYS[2]  tokenlb:returning, a sorted set: id of an instance that still decides on its shares -> its last call of
--            this script, in microseconds of Redis
--   KEYS[3]  tokenlb:switch, which is there from the first `back` until the last `charged`: the moment at which all
--            begin to charge, in microseconds of Redis; 0 while there is none yet
--   ARGV     1 instance id      2 microseconds of silence after which an instance counts as gone
--            3 what it does     4 microseconds without an announcement that are usual      then ids that it had before
--   It does one of these:
--   back     it has spent tokens without Redis, or may have; repeated until there is a moment
--   charged  it holds its requests, and has charged what it spent; repeated until all have
--   new      it has never decided about a request; repeated until it may continue
--   join     the same, without looking for instances that are silent
--   An id with a dot is that of an instance that has no shares (ON_STORE_ERROR is deny or allow): it has nothing to
--   charge, so that no other one waits for it.
-- Reply: how many are live; how many are waited for; and
--   0   use Redis
--   -1  continue with the shares, and ask again
--   more than 0: `back`: begin to charge in that many microseconds; `charged`: hold the requests, and ask again
--
-- While tokenlb:switch exists, no call takes a token (see `outage` in bucket.lua).  So tokens that one instance has spent
-- and not charged yet are not taken by another one.
--
-- The lease does not run while Redis is unavailable: in the first call after an outage, the instances that were live at
-- the last announcement of this one count as silent for as long as they were then.

local LEAD = 120000 -- microseconds from the agreement to the moment: more than the time from one `back` to the next
local HOLD = 300000 -- microseconds for which requests are held at most, from the moment on
local PRESENT = 500000 -- microseconds since its last `back` for which an instance counts as one that is back

local me, silence, what, usual = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

for i = 1, 2 do
  if not read('ZCARD', KEYS[i]) then
    call('DEL', KEYS[i])
  end
end
if not read('STRLEN', KEYS[3]) then
  call('DEL', KEYS[3])
end

local function has_shares(id)
  return not id:find('.', 1, true)
end

local function score(key, id)
  return number(call('ZSCORE', key, id), 0, LAST_STAMP)
end

-- 1. What this instance was before.

local heard = nil
for i = 5, #ARGV do
  local last = score(KEYS[1], ARGV[i])
  heard = last and max(last, heard or 0) or heard
  call('ZREM', KEYS[1], ARGV[i])
  call('ZREM', KEYS[2], ARGV[i])
end
if heard then
  local others = call('ZRANGEBYSCORE', KEYS[1], whole(heard - silence), whole(now), 'WITHSCORES')
  for i = 1, #others, 2 do
    call('ZADD', KEYS[1], whole(now - max(heard - tonumber(others[i + 1]), 0)), others[i])
  end
end

-- 2. A new one.

local switch = read('GET', KEYS[3])
local moment = number(switch, 1, LAST_STAMP)
if moment and now > moment + HOLD then
  moment = nil
end

if what == 'new' and not outage(switch) then
  -- A balancer that is silent may be on its shares, and come back in a moment.
  local newest = call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  local silent = 0
  if newest[2] then
    for _, id in ipairs(call('ZRANGEBYSCORE', KEYS[1], whole(tonumber(newest[2]) - silence), whole(now - usual))) do
      if id ~= me and has_shares(id) then
        silent = silent + 1
      end
    end
  end
  if silent > 0 then
    -- Including this one, which is not announced before it continues.
    return {call('ZCOUNT', KEYS[1], whole(tonumber(newest[2]) - silence), '+inf') + 1, silent, -1}
  end
end
local new = what == 'new' or what == 'join'

-- 3. Who is there.

forget_silent(KEYS[1], silence)
call('ZADD', KEYS[1], now_text, me)
call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. whole(now - silence))
call('ZREMRANGEBYSCORE', KEYS[2], '(' .. whole(now + silence), '+inf')
local ids = call('ZRANGEBYSCORE', KEYS[1], whole(now - silence), whole(now + silence))

-- 4. All have charged.

if what == 'charged' then
  call('ZREM', KEYS[2], me)
  local left = call('ZCARD', KEYS[2])
  if left == 0 then
    call('DEL', KEYS[3])
    return {#ids, 0, 0}
  end
  return {#ids, left, moment and 1 or -1}
end

-- 5. All are back.

local missing, concerned = 0, has_shares(me)
for _, id in ipairs(ids) do
  if id ~= me and has_shares(id) then
    concerned = true
    local back = score(KEYS[2], id)
    if not back or back < now - PRESENT then
      missing = missing + 1
    end
  end
end
if new and not outage(switch) or #ids == 1 or not concerned then
  call('DEL', KEYS[2], KEYS[3])
  return {#ids, 0, 0}
end
local lease = whole(floor(silence / 1000) + 1)
call('ZADD', KEYS[2], now_text, me)
call('PEXPIRE', KEYS[2], lease)
if not moment and missing == 0 then
  moment = now + (call('ZCARD', KEYS[2]) > 1 and LEAD or 0)
end
call('SET', KEYS[3], whole(moment or 0), 'PX', lease)
return {#ids, missing, moment and max(moment - now, 1) or -1}
