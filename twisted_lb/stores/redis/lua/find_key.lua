-- The user who has a key.  Writes nothing.
--   ARGV   the digits of the key_id
-- Reply: see `user_at`; nil if there is none; 1 if there is none, but the index is incomplete (index_keys.lua); an empty list
-- if the value is not a key.

local digest = digest_of_id(ARGV[1])
if not digest then
  return call('ZCARD', 'tokenlb:first_keys') ~= call('ZCARD', 'tokenlb:names') and 1 or false
end
local owner = further(place_of(digest))
return user_at(owner and owner:sub(10, -2) or digest) or {}
