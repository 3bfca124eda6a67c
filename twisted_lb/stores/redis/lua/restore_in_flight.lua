-- Write how many requests of some keys an instance has in flight, whatever was written before.
--   KEYS   tokenlb:in_flight:{<SHA-256 of the key>}, a hash: instance id -> count
--   ARGV   instance id, seconds after which an unused hash is dropped, then a count for each key

for i = 1, #KEYS do
  if not read('HLEN', KEYS[i]) then
    call('DEL', KEYS[i])
  end
  call('HSET', KEYS[i], ARGV[1], ARGV[i + 2])
  call('EXPIRE', KEYS[i], ARGV[2])
end
return #KEYS
