-- Store an account with a full bucket, unless its name or its key is in use.
--   KEYS[1]  the account      KEYS[2]  its name, tokenlb:name:{<SHA-256 of the name>}, holds the account's key
--   ARGV     name, capacity, rate, level
-- Reply: 0 stored, 1 the name is taken, 2 the key is taken.

if call('EXISTS', KEYS[2]) == 1 then
  return 1
end
if call('EXISTS', KEYS[1]) == 1 then
  return 2
end
call('SET', KEYS[2], KEYS[1])
call('HSET', KEYS[1], 'name', ARGV[1], 'capacity', ARGV[2], 'rate', ARGV[3], 'level', ARGV[4], 'stamp', now_text)
return 0
