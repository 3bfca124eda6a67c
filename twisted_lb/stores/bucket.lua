-- The token bucket of twisted_lb/limits/bucket.py, number for number.  This text comes first in every script.
--
-- An account is one hash, tokenlb:{<SHA-256 of the key, hexadecimal>}, which never expires:
--   name, capacity (tokens), rate (tokens per second), level (microtokens), stamp (microseconds)
-- All whole numbers are below 2^53, so that Lua's doubles hold them exactly.

local MICROTOKENS = 1000000

-- Locals, because a look-up in Redis's guarded table of globals costs a tenth of a call.
local call, format, floor, max, min, tonumber = redis.call, string.format, math.floor, math.max, math.min, tonumber

-- For reading: a key of another type is as good as none, and does not fail a whole batch.
local read = redis.pcall

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

-- An account refilled to now: name, capacity, rate as text, level, elapsed microseconds, the level as stored.
-- nil for a key that is not an account.  Changes nothing.
local function refilled(key)
  local fields = read('HMGET', key, 'name', 'capacity', 'rate', 'level', 'stamp')
  local capacity, rate = tonumber(fields[2]), tonumber(fields[3])
  local stored, stamp = tonumber(fields[4]), tonumber(fields[5])
  if not (fields[1] and capacity and rate and stored and stamp) then
    return nil
  end
  local elapsed = now - stamp
  return fields[1], capacity, fields[3], refill(stored, elapsed, rate, capacity * MICROTOKENS), elapsed, stored
end
