-- The token bucket of twisted_lb/limits/bucket.py, with the same arithmetic.  This text comes first in every script.
--
-- A user is one hash, tokenlb:{<SHA-256 of the first key, hexadecimal>}, which never expires:
--   name, capacity (tokens), rate (tokens per second), level (microtokens), stamp (microseconds), and the fields of users.lua
-- A further key of the user is a hash with a key of the same form, and with `owner`: the SHA-256 of the first key.
-- Both may have `state` (see `states`).
-- All whole numbers are below 2^53, so that Lua's doubles hold them exactly.

local MICROTOKENS = 1000000

-- Seconds for which tokenlb:last:<process> is kept: after a longer outage, what was uncertain may be charged twice.
local LAST_TTL = 604800

-- Locals, because a look-up in Redis's guarded table of globals costs a tenth of a call.
local call, format, floor, max, min, tonumber = redis.call, string.format, math.floor, math.max, math.min, tonumber

-- For reading: nil if the key has another type, which affects that key alone and must not fail a whole batch.
local function read(...)
  local found = redis.pcall(...)
  if type(found) == 'table' and found.err then
    if found.err:find('WRONGTYPE', 1, true) then
      return nil
    end
    error(found.err)
  end
  return found
end

-- The clock is that of Redis, the same for all instances.
local time = call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

-- A whole number as text, without an exponent and without losing digits.
local function whole(number)
  return format('%.0f', number)
end

local now_text = whole(now)

-- A level refilled to now.  `full` is in microtokens.
local function refill(level, elapsed, rate, full)
  if elapsed > 0 then
    return min(level + floor(elapsed * rate), full)
  end
  return level
end

-- The number in a text, if it is from `least` to `most`, else nil; also nil for "nan", which Lua reads as a number.
local function number(text, least, most)
  local found = tonumber(text or '')
  return found and found >= least and found <= most and found or nil
end

-- The bounds of what may be stored: see limits/bucket.py.
local MOST_CAPACITY, MOST_RATE, MOST_LEVEL, LAST_STAMP = 1e9, 1e6, 1e15, 2 ^ 53
local MOST_AMOUNT, MOST_USED = 1e12, 1e15 -- of a quota: see quotas.py

local rates = {} -- text -> number; false where it is not a rate

-- A rate, or nil.  Its text is passed to the balancers unchanged, so only decimal numbers are accepted: Lua also reads
-- hexadecimal ones, and ignores what comes after a NUL.
local function rate_of(text)
  local found = rates[text or '']
  if found == nil then
    found = text and not text:find('[^%d.eE+-]') and number(text, 0, MOST_RATE) or false
    rates[text or ''] = found
  end
  return found or nil
end

-- Whether balancers are coming back from an outage, and at least one of them has not charged yet what it spent without
-- Redis; `switch` is the value of tokenlb:switch (see rejoin.lua).  Until all have charged, no balancer takes from a bucket,
-- not even one that has not noticed the outage.
local function outage(switch)
  return number(switch, 0, LAST_STAMP) ~= nil
end

-- An account refilled to now: name, capacity, rate as text, level, elapsed microseconds, the level as stored, `state`.
-- nil if there is no such key, false if the value is not an account.  Changes nothing.
-- `fields` are the six fields that are read below, if they have been read already.
local function refilled(key, fields)
  fields = fields or read('HMGET', key, 'name', 'capacity', 'rate', 'level', 'stamp', 'state')
  if not fields then
    return false
  end
  local capacity, rate = number(fields[2], 1, MOST_CAPACITY), rate_of(fields[3])
  local stored, stamp = number(fields[4], -MOST_LEVEL, MOST_LEVEL), number(fields[5], 0, LAST_STAMP)
  if not (fields[1] and capacity and rate and stored and stamp) then
    if call('EXISTS', key) == 0 then
      return nil
    end
    return false
  end
  local elapsed = now - stamp
  local level = refill(stored, elapsed, rate, capacity * MICROTOKENS)
  return fields[1], capacity, fields[3], level, elapsed, stored, fields[6]
end

-- The parts of `state`, which is absent if all have their defaults.  Of the user, only in the hash of the first key:
-- 'active' or 'disabled'; of the key: 'active', 'disabled' or 'revoked'; when it expires (0: it does not); and 'own' for a
-- bucket of its own, in tokenlb:key_bucket:{<digest>}, in addition to the user's.  Then, of the user again, letters for what
-- the user has: 'q' for a quota (see `quota_at`), 's' for a shadow policy, with its bucket in
-- tokenlb:shadow_bucket:{<digest of the first key>}; absent: neither.  nil if the text is malformed.
local function states(text)
  if not text then
    return 'active', 'active', 0, false, ''
  end
  local user, key, expires, bucket, more = text:match('^(%l+) (%l+) (%d+) (%l+) ?(%l*)$')
  expires = number(expires, 0, LAST_STAMP)
  if not expires or user ~= 'active' and user ~= 'disabled' or bucket ~= 'own' and bucket ~= 'shared' then
    return nil
  end
  if more ~= '' and more ~= 'q' and more ~= 's' and more ~= 'qs' then
    return nil
  end
  if key ~= 'active' and key ~= 'disabled' and key ~= 'revoked' then
    return nil
  end
  return user, key, expires, bucket == 'own', more
end

local function has_quota(more)
  return more:find('q', 1, true) ~= nil
end

local function has_shadow(more)
  return more:find('s', 1, true) ~= nil
end

-- The key of the bucket of a user's shadow policy; `key` is the user's hash.
local function shadow_bucket_of(key)
  return 'tokenlb:shadow_bucket:' .. key:sub(9)
end

-- The key of the bucket of a user's shadow policy, its capacity, and its rate as text; `key` is the user's hash.
-- nil if there is no valid policy.
local function shadow_of(key)
  local fields = call('HMGET', key, 'shadow_capacity', 'shadow_rate')
  if number(fields[1], 1, MOST_CAPACITY) and rate_of(fields[2]) then
    return shadow_bucket_of(key), tonumber(fields[1]), fields[2]
  end
  return nil
end

-- The quota of the user with this record, if `states` says that there is one: see limits/quota_count.py.  In the hash:
--   quota (amount, unit, day or month, time zone), quota_used, quota_starts, quota_ends (microseconds; 0: the period is to
--   be determined), quota_told (the highest threshold that was reached in the period, in percent)
-- nil if it is not valid.
local function quota_at(place)
  local fields = call('HMGET', place, 'quota', 'quota_used', 'quota_starts', 'quota_ends', 'quota_told')
  local amount, unit = (fields[1] or ''):match('^(%d+) (%l+) %l+ [%w/_+-]+$')
  amount = number(amount, 1, MOST_AMOUNT)
  local used, told = number(fields[2] or '0', 0, MOST_USED), number(fields[5] or '0', 0, 100)
  local starts, ends = number(fields[3] or '0', 0, LAST_STAMP), number(fields[4] or '0', 0, LAST_STAMP)
  if not (amount and used and starts and ends and told) or unit ~= 'requests' and unit ~= 'tokens' then
    return nil
  end
  return {
    place = place, text = fields[1], amount = amount, unit = unit, used = used, starts = starts, ends = ends, told = told,
  }
end

-- The element of a reply for a quota: a list of text, used, start and end of the period, and now; nil for none.
local function quota_list(quota)
  return quota and {quota.text, quota.used, quota.starts, quota.ends, now} or false
end

local REVOKED = -1

-- Why a key must not be used: REVOKED, 90 the user is disabled, 91 the key is, 92 it has expired; nil: it may be used.
local function refusal(user, key, expires)
  if key == 'revoked' then
    return REVOKED
  elseif user == 'disabled' then
    return 90
  elseif key == 'disabled' then
    return 91
  elseif expires > 0 and expires <= now then
    return 92
  end
  return nil
end

-- The policy of a key's own bucket, capacity and rate as text; nil if it is not valid.
local function own_policy(capacity, rate)
  if number(capacity, 1, MOST_CAPACITY) and rate_of(rate) then
    return tonumber(capacity), rate
  end
  return nil
end

-- The owner of a key that is not an account: the owner's hash, then `state`, capacity and rate of the key's own bucket.
-- nil if it is not a further key.
local function further(key)
  local fields = read('HMGET', key, 'owner', 'state', 'key_capacity', 'key_rate')
  if not fields or not fields[1] or #fields[1] ~= 64 then
    return nil
  end
  return 'tokenlb:{' .. fields[1] .. '}', fields[2], fields[3], fields[4]
end

-- The account of any key: why the key must not be used (see `refusal`; 0: it may be), the account's key in Redis,
-- microseconds until it expires (0: it does not), capacity (0: none) and rate of its own bucket, the user's quota (nil:
-- none), and the letters for what else the user has (see `states`).
-- nil if there is no such key, false if the value is not a key.
local function account_of(key)
  local name, _, _, _, _, _, text = refilled(key)
  local place, capacity, rate, of_user = key, nil, nil, nil
  if name == nil then
    return nil
  elseif name then
    of_user = text
    if text then
      capacity, rate = unpack(call('HMGET', key, 'key_capacity', 'key_rate'))
    end
  else
    place, text, capacity, rate = further(key)
    if not place then
      return false
    end
    name, _, _, _, _, _, of_user = refilled(place)
    if not name then
      return false
    end
  end
  local user, _, _, _, more = states(of_user)
  local _, state, expires, own = states(text)
  if not user or not state then
    return false
  end
  local quota = nil
  if has_quota(more) then
    quota = quota_at(place)
    if not quota then
      return false
    end
  end
  if own then
    capacity, rate = own_policy(capacity, rate)
    if not capacity then
      return false
    end
  end
  local left = expires > 0 and max(expires - now, 1) or 0
  return refusal(user, state, expires) or 0, place, left, own and capacity or 0, own and rate or '0', quota, more
end

-- A bucket without an account, which is full until it is used, refilled to now: level, elapsed microseconds, and the level
-- as stored; then whether there is something else under its key.  `full` is in microtokens.
local function refilled_shared(key, full, rate)
  local fields = read('HMGET', key, 'level', 'stamp')
  local stored = fields and number(fields[1], -MOST_LEVEL, MOST_LEVEL)
  local stamp = fields and number(fields[2], 0, LAST_STAMP)
  if not (stored and stamp) then
    return full, 1, full, not fields or fields[1] or fields[2]
  end
  local elapsed = now - stamp
  -- The capacity may have been reduced since.
  return min(refill(stored, elapsed, rate, full), full), elapsed, min(stored, full), false
end

-- How many instances of tokenlb:instances are live.
local function living(key, silence)
  return call('ZCOUNT', key, whole(now - silence), whole(now + silence))
end

-- Remove those that were silent for that long while others announced themselves: in an outage all are silent.  An
-- announcement in the future is from before the clock of Redis was set back, and must not count for ever.
local function forget_silent(key, silence)
  call('ZREMRANGEBYSCORE', key, '(' .. whole(now + silence), '+inf')
  local newest = call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
  if newest[2] then
    call('ZREMRANGEBYSCORE', key, '-inf', '(' .. whole(tonumber(newest[2]) - silence))
  end
end
