-- What has been counted of some subjects.  Writes nothing.
--   KEYS   their hashes
-- Reply: of each, two lists, of the hour and of the day: counter, number, counter, number, ...

local reply = {}
for i = 1, #KEYS do
  local fields = read('HGETALL', KEYS[i]) or {}
  local windows = {}
  for p, period in ipairs(PERIODS) do
    local present, counts, names = floor(second / period[2]), {}, {}
    for f = 1, #fields, 2 do
      local slot = fields[f]:sub(1, 1) == period[1] and slot_of(fields[f + 1])
      if slot and slot > present - period[3] and slot <= present then
        add_text(fields[f + 1], counts, names)
      end
    end
    local window = {}
    for _, name in ipairs(names) do
      window[#window + 1], window[#window + 2] = name, whole(counts[name])
    end
    windows[p] = window
  end
  reply[i] = windows
end
return reply
