-- Change a key; empty arguments are left as they are.
--   ARGV   how many forms of the name of its user; the forms; the digits of the key_id
--          state, when it expires (0: it does not), '1' and a label, capacity of its own bucket (0: none), rate, level
-- Reply: the user before and after, see `user_at`; nil if there is no such key, an empty list if the value is not a user;
-- 4 the key is revoked.

local owner, user, at = named_user()
if not user then
  return user == false and {} or false
end
local before = key_in(user, ARGV[at])
if not before then
  return false
end
local state = ARGV[at + 1]
if before[2] == 'revoked' and state ~= '' and state ~= 'revoked' then
  return 4
end
local key = {unpack(before)}
key[2] = state ~= '' and state or key[2]
key[3] = tonumber(ARGV[at + 2]) or key[3]
key[4] = ARGV[at + 3] ~= '' and ARGV[at + 3]:sub(2) or key[4]
if ARGV[at + 4] ~= '' then
  key[7], key[8] = tonumber(ARGV[at + 4]), ARGV[at + 5]
  local level = tonumber(ARGV[at + 6]) or before[7] > 0 and before[9] or key[7] * MICROTOKENS
  key[9] = min(level, key[7] * MICROTOKENS)
end
if key[1] == owner then
  write_key(owner, user[6], user.more, key)
else
  write_key(key[1], 'active', '', key, owner)
end
tell(key[1])
return {user, user_at(owner)}
