-- A user, by the digest of a key.  Writes nothing.
--   KEYS[1]  the key      ARGV[1]  its digest
-- Reply: why the key must not be used (see `refusal`), or 0; and the user.  nil if there is none, an empty list if the
-- value is not a key.

local digest = ARGV[1]
local owner = further(KEYS[1])
local user = user_at(owner and owner:sub(10, -2) or digest)
if user == nil then
  return owner and {} or false
end
local key = user and key_in(user, digest:sub(1, DIGITS))
if not key then
  return {}
end
return {refusal(user[6], key[2], key[3]) or 0, user}
