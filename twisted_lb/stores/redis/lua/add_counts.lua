-- Count more of some subjects, in the present slots.
--   KEYS   their hashes
--   ARGV   of each: the digest of the key that it belongs to, or ''; and '<counter>=<number> <counter>=<number> ...'
-- Reply: how many subjects were counted.  Those that belong to a key that does not exist are left out.

local KEPT_SECONDS = 90000 -- a day and an hour, after the last count

local counted = 0
for i = 1, #KEYS do
  local digest, more = ARGV[2 * i - 1], ARGV[2 * i]
  if digest == '' or call('EXISTS', 'tokenlb:{' .. digest .. '}') == 1 then
    local fields, slots = {}, {}
    for p, period in ipairs(PERIODS) do
      slots[p] = floor(second / period[2])
      fields[p] = period[1] .. whole(slots[p] % period[3])
    end
    local texts = read('HMGET', KEYS[i], unpack(fields))
    if not texts then
      -- Not a key of this program; nothing is lost with it.
      call('DEL', KEYS[i])
      texts = {}
    end
    local arguments = {}
    for p, field in ipairs(fields) do
      local counts, names = {}, {}
      if texts[p] and slot_of(texts[p]) == slots[p] then
        add_text(texts[p], counts, names)
      end
      add_text(more, counts, names)
      local parts = {whole(slots[p])}
      for _, name in ipairs(names) do
        parts[#parts + 1] = name .. '=' .. whole(counts[name])
      end
      arguments[2 * p - 1], arguments[2 * p] = field, table.concat(parts, ' ')
    end
    call('HSET', KEYS[i], unpack(arguments))
    call('EXPIRE', KEYS[i], KEPT_SECONDS)
    counted = counted + 1
  end
end
return counted
