-- Set the policy of an account; the level so far is kept, and cut to a smaller capacity.
--   KEYS[1]  the account
--   ARGV     capacity, rate; an empty one is left as it is
-- Reply: nil where there is no account, else name, capacity as text, rate as text, level; an empty list where what is
-- there is not an account.

local name, capacity, rate, level, elapsed = refilled(KEYS[1])
if not name then
  return name == false and {} or false
end
if ARGV[1] ~= '' then
  capacity = tonumber(ARGV[1])
end
if ARGV[2] ~= '' then
  rate = ARGV[2]
end
level = min(level, capacity * MICROTOKENS)
call('HSET', KEYS[1], 'capacity', whole(capacity), 'rate', rate, 'level', whole(level))
if elapsed > 0 then
  call('HSET', KEYS[1], 'stamp', now_text)
end
return {name, whole(capacity), rate, level}
