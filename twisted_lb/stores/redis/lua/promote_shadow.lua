-- Make the shadow policy of a user the policy, and remove the shadow.  The level is kept, and reduced to a smaller capacity.
--   ARGV   how many forms of the name; the forms
-- Reply: the user before and after, see `user_at`; nil if there is none, an empty list if the value is not a user; 5 there is
-- no shadow.

local owner, user = named_user()
if not user then
  return user == false and {} or false
end
local _, capacity, rate = unpack(user[7])
if capacity == 0 then
  return 5
end
local place = place_of(owner)
local level = min(user[5], capacity * MICROTOKENS)
local stamp = max(number(call('HGET', place, 'stamp'), 0, LAST_STAMP), now)
call('HSET', place, 'capacity', whole(capacity), 'rate', rate, 'level', whole(level), 'stamp', whole(stamp))
write_shadow(owner, 0, '0', 0)
write_key(owner, user[6], has_quota(user.more) and 'q' or '', user[9])
return {user, user_at(owner)}
