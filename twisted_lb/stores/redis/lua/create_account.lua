-- Store an account with a full bucket, unless its name or its key is in use.
--   KEYS[1]  the account      KEYS[2]  tokenlb:names, a sorted set, all scores 0, of <name> NUL <SHA-256 of the key>
--   ARGV     capacity, rate, level, SHA-256 of the key, name, and other forms of the same name
-- Reply: 0 stored, 1 the name is taken, 2 the key is taken.
-- No name holds a NUL, so the members of one name are those from <name> NUL up to <name> 1.

for i = 5, #ARGV do
  if #call('ZRANGEBYLEX', KEYS[2], '[' .. ARGV[i] .. '\0', '(' .. ARGV[i] .. '\1', 'LIMIT', 0, 1) > 0 then
    return 1
  end
end
if call('EXISTS', KEYS[1]) == 1 then
  return 2
end
call('ZCARD', 'tokenlb:first_keys')
-- The stamp says that nothing was ever taken; a full bucket is full however long that is ago.
call(
  'HSET', KEYS[1], 'name', ARGV[5], 'capacity', ARGV[1], 'rate', ARGV[2], 'level', ARGV[3], 'stamp', 0,
  'created', now_text
)
call('ZADD', KEYS[2], 0, ARGV[5] .. '\0' .. ARGV[4])
-- The index of keys, see users.lua.
call('ZADD', 'tokenlb:first_keys', 0, ARGV[4])
return 0
