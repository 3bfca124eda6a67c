-- Add a key in place of another one, which expires after a grace period.
--   ARGV   how many forms of the name of its user; the forms; how many keys a user has at most
--          the digits of the key_id, microseconds of grace (0: it is revoked), the digest of the new key
--          1: the new key expires when the old one would have
-- Reply: the user before and after, see `user_at`; nil if there is no such key, an empty list if the value is not a user;
-- 2 the new key is taken, 3 there are too many, 4 the key is revoked.

local owner, user, at = named_user()
if not user then
  return user == false and {} or false
end
local before, digest, grace = key_in(user, ARGV[at + 1]), ARGV[at + 3], tonumber(ARGV[at + 2])
if not before then
  return false
end
for i = 9, #user do
  if user[i][1] == digest then
    return {user, user}
  end
end
if before[2] == 'revoked' then
  return 4
elseif key_taken(digest) then
  return 2
elseif not room_for_key(user, tonumber(ARGV[at])) then
  return 3
end
local key = {unpack(before)}
if grace > 0 then
  key[3] = key[3] > 0 and min(key[3], now + grace) or now + grace
else
  key[2] = 'revoked'
end
if key[1] == owner then
  write_key(owner, user[6], user.more, key)
else
  write_key(key[1], 'active', '', key, owner)
end
tell(key[1])
local expires = ARGV[at + 4] == '1' and before[3] or 0
add_key(owner, {digest, 'active', expires, before[4], now, 0, before[7], before[8], before[9]})
return {user, user_at(owner)}
