-- One token of one account: what nginx + Lua calls for every request.  The text of twisted_lb's bucket.lua comes first.
-- Reply: 1 admitted or 0 refused, name, capacity, rate, whole tokens left, seconds until full; empty: no such account.

local name, capacity, rate, level = refilled(KEYS[1])
if not name then
  return {}
end
local admitted = level >= MICROTOKENS
if admitted then
  level = level - MICROTOKENS
  call('HSET', KEYS[1], 'level', whole(level), 'stamp', now_text)
end
local until_full = (capacity * MICROTOKENS - level) / (tonumber(rate) * MICROTOKENS)
return {admitted and 1 or 0, name, capacity, rate, floor(level / MICROTOKENS), -floor(-until_full)}
