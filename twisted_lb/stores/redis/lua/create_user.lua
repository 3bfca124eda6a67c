-- Store a user with all keys, unless the name or one of the keys is in use.
--   ARGV   how many forms of the name; the forms, the first of which is stored
--          capacity, rate, level ('': full), state, metadata, created ('': now)
--          capacity (0: none), rate and level ('': full) of the shadow policy
--          quota ('': none), what was used of it, start and end of its period, and the highest threshold reached
--          then nine for each key, see `key_argument`; the first is that of the record
-- Reply: 0 stored, 1 the name is taken, 2 a key is taken.

local forms = tonumber(ARGV[1])
if owner_of_name(2, forms) then
  return 1
end
local at = 2 + forms
local keys = {}
for i = at + 14, #ARGV - 8, 9 do
  keys[#keys + 1] = key_argument(i)
end
local owner = keys[1][1]
for _, key in ipairs(keys) do
  if key_taken(key[1]) then
    return 2
  end
end
call('SCARD', keys_of(owner))
call('HLEN', bucket_of(owner))
call('HLEN', shadow_bucket_of(place_of(owner)))
local capacity = tonumber(ARGV[at])
local level = min(tonumber(ARGV[at + 2]) or capacity * MICROTOKENS, capacity * MICROTOKENS)
-- The stamp of a full bucket says that nothing was ever taken.
local stamp = level < capacity * MICROTOKENS and now_text or 0
call('HSET', place_of(owner), 'name', ARGV[2], 'capacity', ARGV[at], 'rate', ARGV[at + 1], 'level', whole(level), 'stamp', stamp)
if ARGV[at + 4] ~= '' then
  call('HSET', place_of(owner), 'metadata', ARGV[at + 4])
end
local shadow, with_quota = tonumber(ARGV[at + 6]), ARGV[at + 9] ~= ''
if with_quota then
  write_quota(place_of(owner), unpack(ARGV, at + 9, at + 13))
end
write_key(owner, ARGV[at + 3], (with_quota and 'q' or '') .. (shadow > 0 and 's' or ''), keys[1])
local shadow_level = tonumber(ARGV[at + 8]) or shadow * MICROTOKENS
write_shadow(owner, shadow, ARGV[at + 7], min(shadow_level, shadow * MICROTOKENS))
call('HSET', place_of(owner), 'created', ARGV[at + 5] ~= '' and ARGV[at + 5] or now_text)
call('ZADD', 'tokenlb:names', 0, ARGV[2] .. '\0' .. owner)
call('ZADD', 'tokenlb:first_keys', 0, owner)
for i = 2, #keys do
  add_key(owner, keys[i])
end
return 0
