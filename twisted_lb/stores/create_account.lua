-- Store an account with a full bucket, unless its name or its key is in use.
--   KEYS[1]  the account      KEYS[2]  tokenlb:names, a sorted set, all scores 0, of <name> NUL <SHA-256 of the key>
--   ARGV     name, capacity, rate, level, SHA-256 of the key
-- Reply: 0 stored, 1 the name is taken, 2 the key is taken.
-- No name holds a NUL, so the members of one name are those from <name> NUL up to <name> 1.

if #call('ZRANGEBYLEX', KEYS[2], '[' .. ARGV[1] .. '\0', '(' .. ARGV[1] .. '\1', 'LIMIT', 0, 1) > 0 then
  return 1
end
if call('EXISTS', KEYS[1]) == 1 then
  return 2
end
call('HSET', KEYS[1], 'name', ARGV[1], 'capacity', ARGV[2], 'rate', ARGV[3], 'level', ARGV[4], 'stamp', now_text)
call('ZADD', KEYS[2], 0, ARGV[1] .. '\0' .. ARGV[5])
return 0
