-- An account and the level of its bucket now.  Writes nothing.
--   KEYS[1]  the account
-- Reply: nil where there is no account, else name, capacity as text, rate as text, level, and microseconds since its
-- bucket was last used; an empty list where what is there is not an account.

local name, capacity, rate, level, elapsed = refilled(KEYS[1])
if not name then
  return name == false and {} or false
end
return {name, whole(capacity), rate, level, max(elapsed, 0)}
