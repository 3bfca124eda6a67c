-- The token bucket of twisted_lb/limits/bucket.py, number for number.  This text comes first in every script.
--
-- An account is one hash, tokenlb:{<SHA-256 of the key, hexadecimal>}, which never expires:
--   name, capacity (tokens), rate (tokens per second), level (microtokens), stamp (microseconds)
-- All whole numbers are below 2^53, so that Lua's doubles hold them exactly.

local MICROTOKENS = 1000000

-- Seconds for which tokenlb:last:<process> is kept: an outage that is longer may charge what was uncertain once more.
local LAST_TTL = 604800

-- Locals, because a look-up in Redis's guarded table of globals costs a tenth of a call.
local call, format, floor, max, min, tonumber = redis.call, string.format, math.floor, math.max, math.min, tonumber

-- For reading: nil where the key has another type, which concerns that key alone and must not fail a whole batch.
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

-- A whole number as text: neither an exponent nor a lost digit.
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

-- The number in a text, where it is one from `least` to `most`; "nan", which Lua reads as a number, is not.
local function number(text, least, most)
  local found = tonumber(text or '')
  return found and found >= least and found <= most and found or nil
end

-- The bounds of what may be stored: see limits/bucket.py.
local MOST_CAPACITY, MOST_RATE, MOST_LEVEL, LAST_STAMP = 1e9, 1e6, 1e15, 2 ^ 53

-- Whether balancers are coming back from an outage, and one of them at least has not charged yet what it spent without
-- Redis; `switch` is what tokenlb:switch holds (see rejoin.lua).  Until all have, nobody takes from a bucket, nor does one
-- that has not noticed the outage.
local function outage(switch)
  return number(switch, 0, LAST_STAMP) ~= nil
end

-- An account refilled to now: name, capacity, rate as text, level, elapsed microseconds, the level as stored.
-- nil where there is no such key, false where what is there is not an account.  Changes nothing.
local function refilled(key)
  local fields = read('HMGET', key, 'name', 'capacity', 'rate', 'level', 'stamp')
  if not fields then
    return false
  end
  local capacity, rate = number(fields[2], 1, MOST_CAPACITY), number(fields[3], 0, MOST_RATE)
  local stored, stamp = number(fields[4], -MOST_LEVEL, MOST_LEVEL), number(fields[5], 0, LAST_STAMP)
  if not (fields[1] and capacity and rate and stored and stamp) then
    if call('EXISTS', key) == 0 then
      return nil
    end
    return false
  end
  local elapsed = now - stamp
  return fields[1], capacity, fields[3], refill(stored, elapsed, rate, capacity * MICROTOKENS), elapsed, stored
end

-- How many instances of tokenlb:instances live.
local function living(key, silence)
  return call('ZCOUNT', key, whole(now - silence), whole(now + silence))
end

-- Remove those that were silent for so long while others were heard of: in an outage all are silent.  An announcement
-- of the future is from before the clock of Redis went back: it is no sign of life for ever.
local function forget_silent(key, silence)
  call('ZREMRANGEBYSCORE', key, '(' .. whole(now + silence), '+inf')
  local newest = call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
  if newest[2] then
    call('ZREMRANGEBYSCORE', key, '-inf', '(' .. whole(tonumber(newest[2]) - silence))
  end
end
