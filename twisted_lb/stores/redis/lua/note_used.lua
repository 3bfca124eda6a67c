-- Note when some keys were last used.
--   KEYS   any number of keys      ARGV  when each was used, in microseconds before now
-- Reply: how many were noted.

local noted = 0
for i = 1, #KEYS do
  local fields = read('HMGET', KEYS[i], 'name', 'owner', 'last_used')
  if fields and (fields[1] or fields[2]) then
    local used = now - tonumber(ARGV[i])
    used = used - used % 60000000
    if used > (number(fields[3], 0, LAST_STAMP) or 0) then
      call('HSET', KEYS[i], 'last_used', whole(used))
      noted = noted + 1
    end
  end
end
return noted
