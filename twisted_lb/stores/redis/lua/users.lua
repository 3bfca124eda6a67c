-- Users and their keys; this text comes after bucket.lua in the scripts about them.
--
-- The hash of a user's first key is the user's record, even if that key is revoked.  Besides the fields of bucket.lua it has:
--   metadata (JSON), created (microseconds), shadow_capacity and shadow_rate (of the shadow policy), what each key has, and
--   quota and more, for a quota: see `quota_at` in bucket.lua
-- A key has, besides `owner` and `state`:
--   label, created, last_used (microseconds), key_capacity and key_rate (of its own bucket)
-- Absent fields have defaults: a store of an earlier version is complete as it is.
--   tokenlb:keys_of:{<digest of the first key>}  a set: the digests of the further keys, where there are any
--   tokenlb:first_keys, tokenlb:further_keys     sorted sets, scores 0: all digests, to find a key by its key_id
--   tokenlb:changed_keys                         a sorted set: digest -> when its state was changed last, see announce.lua
-- A script first reads all that it writes: a key in Redis with a wrong type fails the script before its first write.

-- The first one is also the last one that `refilled` reads.
local KEY_FIELDS = {'state', 'label', 'created', 'last_used', 'key_capacity', 'key_rate', 'owner', 'metadata'}
local SHADOW_FIELDS = {'shadow_capacity', 'shadow_rate'}
local DIGITS = 16 -- of a digest in a key_id

local function place_of(digest)
  return 'tokenlb:{' .. digest .. '}'
end

local function bucket_of(digest)
  return 'tokenlb:key_bucket:{' .. digest .. '}'
end

local function usage_of(kind, digest)
  return 'tokenlb:usage:{' .. kind .. ':' .. digest .. '}'
end

local function in_flight_of(digest)
  return 'tokenlb:in_flight:{' .. digest .. '}'
end

local function keys_of(owner)
  return 'tokenlb:keys_of:{' .. owner .. '}'
end

-- A key: {digest, state, expires, label, created, last used, capacity of its own bucket (0: none), rate, level}; and the
-- state of the user, and the letters for what else the user has (see `states`).  nil if the fields, those of KEY_FIELDS
-- after the first `at`, are not those of a key.
local function key_from(digest, fields, at)
  local user, state, expires, own, more = states(fields[at + 1])
  if not user then
    return nil
  end
  local capacity, rate, level = 0, '0', 0
  if own then
    capacity, rate = own_policy(fields[at + 5], fields[at + 6])
    if not capacity then
      return nil
    end
    level = refilled_shared(bucket_of(digest), capacity * MICROTOKENS, tonumber(rate))
  end
  local created, used = number(fields[at + 3], 0, LAST_STAMP), number(fields[at + 4], 0, LAST_STAMP)
  return {digest, state, expires, fields[at + 2] or '', created or 0, used or 0, capacity, rate, level}, user, more
end

-- A user: {digest of the first key, name, capacity, rate as text, level, state, described, creation, keys...}, where
-- `described` is {metadata, and of the shadow policy capacity (0: none), rate as text, level}, and `creation` is {created,
-- the quota (see `quota_list`)}; and as `more`, see `states`.
-- nil if there is no user, false if the value is not a user.
local function user_at(owner)
  local place = place_of(owner)
  -- One call also reads the fields of `refilled`, since half of the time of a page is spent in calls.
  local fields = read('HMGET', place, 'name', 'capacity', 'rate', 'level', 'stamp', unpack(KEY_FIELDS))
  local name, capacity, rate, level = refilled(place, fields)
  if not name then
    -- A further key has a hash of its own, and is not a user.
    return name
  end
  local key, state, more = key_from(owner, fields, 5)
  if not key then
    return false
  end
  local described = {fields[13] or '', 0, '0', 0}
  if has_shadow(more) then
    local bucket, full, speed = shadow_of(place)
    if not bucket then
      return false
    end
    described[2], described[3] = full, speed
    described[4] = refilled_shared(bucket, full * MICROTOKENS, tonumber(speed))
  end
  local creation = {key[5], false}
  if has_quota(more) then
    local quota = quota_at(place)
    if not quota then
      return false
    end
    creation[2] = quota_list(quota)
  end
  local user = {owner, name, whole(capacity), rate, level, state, described, creation, key}
  user.more = more
  for _, digest in ipairs(read('SMEMBERS', keys_of(owner)) or {}) do
    fields = read('HMGET', place_of(digest), unpack(KEY_FIELDS))
    key = fields and fields[7] == owner and key_from(digest, fields, 0)
    if key then
      user[#user + 1] = key
    end
  end
  return user
end

-- The digest of the first key of the user with one of these names: `count` arguments from `first` on.
local function owner_of_name(first, count)
  for i = first, first + count - 1 do
    local found = call('ZRANGEBYLEX', 'tokenlb:names', '[' .. ARGV[i] .. '\0', '(' .. ARGV[i] .. '\1', 'LIMIT', 0, 1)
    if found[1] then
      return found[1]:sub(-64)
    end
  end
  return nil
end

-- The user whose name is in the arguments: the first one is the number of forms of the name, which follow it.
-- Returns the digest of the first key, the user, and the place of the next argument.
local function named_user()
  local count = tonumber(ARGV[1])
  local owner = owner_of_name(2, count)
  local user = owner and user_at(owner)
  return owner, user, 2 + count
end

local function key_in(user, key_id)
  for i = 9, #user do
    if user[i][1]:sub(1, DIGITS) == key_id then
      return user[i]
    end
  end
  return nil
end

-- The digest of a key by the digits of its key_id.
local function digest_of_id(key_id)
  for _, index in ipairs({'tokenlb:first_keys', 'tokenlb:further_keys'}) do
    -- 'g' comes after all hexadecimal digits.
    local found = call('ZRANGEBYLEX', index, '[' .. key_id, '(' .. key_id .. 'g', 'LIMIT', 0, 1)
    if found[1] then
      return found[1]
    end
  end
  return nil
end

-- Whether a digest, or a key_id, is in use.
local function key_taken(digest)
  return call('EXISTS', place_of(digest)) == 1 or digest_of_id(digest:sub(1, DIGITS)) ~= nil
end

-- Write the fields of a key, as `key_from` reads them; `user` is the state of the user ('active' for further keys), and
-- `more` the letters for what else the user has ('' for further keys), see `states`.
-- `key` is as `key_from` returns it.  Its fields in Redis are replaced.
local function write_key(digest, user, more, key, owner)
  local place = place_of(digest)
  local special = user ~= 'active' or key[2] ~= 'active' or key[3] > 0 or key[7] > 0 or more ~= ''
  local fields = {}
  local function set(name, value, wanted)
    if wanted then
      fields[#fields + 1], fields[#fields + 2] = name, value
    else
      call('HDEL', place, name)
    end
  end
  set('owner', owner, owner)
  local kind = key[7] > 0 and 'own' or 'shared'
  local words = user .. ' ' .. key[2] .. ' ' .. whole(key[3]) .. ' ' .. kind
  set('state', more == '' and words or words .. ' ' .. more, special)
  set('label', key[4], key[4] ~= '')
  set('created', whole(key[5]), key[5] > 0)
  set('last_used', whole(key[6]), key[6] > 0)
  set('key_capacity', whole(key[7]), key[7] > 0)
  set('key_rate', key[8], key[7] > 0)
  if #fields > 0 then
    call('HSET', place, unpack(fields))
  end
  call('DEL', bucket_of(digest))
  if key[7] > 0 and key[9] < key[7] * MICROTOKENS then
    call('HSET', bucket_of(digest), 'level', whole(key[9]), 'stamp', now_text)
  end
end

-- Set the shadow policy of a user; a capacity of 0 removes it.
local function write_shadow(owner, capacity, rate, level)
  if capacity > 0 then
    call('HSET', place_of(owner), 'shadow_capacity', whole(capacity), 'shadow_rate', rate)
  else
    call('HDEL', place_of(owner), unpack(SHADOW_FIELDS))
  end
  local bucket = shadow_bucket_of(place_of(owner))
  call('DEL', bucket)
  if level < capacity * MICROTOKENS then
    call('HSET', bucket, 'level', whole(level), 'stamp', now_text)
  end
end

-- Notify all instances that it may have changed whether this key may be used.
local function tell(digest)
  if not read('ZCARD', 'tokenlb:changed_keys') then
    -- Not a key of this program; nothing is lost with it.
    call('DEL', 'tokenlb:changed_keys')
  end
  call('ZADD', 'tokenlb:changed_keys', now_text, digest)
end

-- A key from nine arguments, in the order of `key_from`; empty ones have defaults.
local function key_argument(first)
  local capacity = tonumber(ARGV[first + 6])
  local level = tonumber(ARGV[first + 8]) or capacity * MICROTOKENS
  return {
    ARGV[first], ARGV[first + 1], tonumber(ARGV[first + 2]), ARGV[first + 3], tonumber(ARGV[first + 4]) or now,
    tonumber(ARGV[first + 5]), capacity, ARGV[first + 7], min(level, capacity * MICROTOKENS),
  }
end

-- Remove a further key.
local function forget_key(owner, digest)
  tell(digest)
  call('DEL', place_of(digest), bucket_of(digest), in_flight_of(digest), usage_of('key', digest))
  call('SREM', keys_of(owner), digest)
  call('ZREM', 'tokenlb:further_keys', digest)
end

-- Make room for one more key; return whether there is any.  The oldest one that is revoked or expired is removed.
local function room_for_key(user, most)
  call('SCARD', keys_of(user[1]))
  if #user - 8 < most then
    return true
  end
  local oldest = nil
  for i = 10, #user do
    local key = user[i]
    local ended = key[2] == 'revoked' or key[3] > 0 and key[3] <= now
    if ended and (not oldest or key[5] < oldest[5]) then
      oldest = key
    end
  end
  if oldest then
    forget_key(user[1], oldest[1])
  end
  return oldest ~= nil
end

-- Add a further key.
local function add_key(owner, key)
  write_key(key[1], 'active', '', key, owner)
  call('SADD', keys_of(owner), key[1])
  call('ZADD', 'tokenlb:further_keys', 0, key[1])
end

-- Write the quota of a user.
local function write_quota(place, text, used, starts, ends, told)
  call(
    'HSET', place, 'quota', text, 'quota_used', whole(used), 'quota_starts', whole(starts), 'quota_ends', whole(ends),
    'quota_told', told
  )
end
