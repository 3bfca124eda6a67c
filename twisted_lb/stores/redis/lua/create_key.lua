-- Add a key to a user.
--   ARGV   how many forms of the name; the forms; how many keys a user has at most; nine of the key, see `key_argument`
-- Reply: the user before and after, see `user_at`; nil if there is none, an empty list if the value is not a user; 2 the key
-- is taken, 3 there are too many.

local owner, user, at = named_user()
if not user then
  return user == false and {} or false
end
local key = key_argument(at + 1)
for i = 9, #user do
  if user[i][1] == key[1] then
    return {user, user}
  end
end
if key_taken(key[1]) then
  return 2
end
if not room_for_key(user, tonumber(ARGV[at])) then
  return 3
end
add_key(owner, key)
return {user, user_at(owner)}
