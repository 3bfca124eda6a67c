-- Remove a user and all keys.
--   ARGV   how many forms of the name; the forms
-- Reply: the user, see `user_at`; nil if there is none, an empty list if the value is not a user.

local owner, user = named_user()
if not user then
  return owner and user == false and {} or false
end
call('ZCARD', 'tokenlb:first_keys')
call('ZCARD', 'tokenlb:further_keys')
for _, digest in ipairs(read('SMEMBERS', keys_of(owner)) or {}) do
  forget_key(owner, digest)
end
call('ZREM', 'tokenlb:names', user[2] .. '\0' .. owner)
call('ZREM', 'tokenlb:first_keys', owner)
tell(owner)
call('DEL', place_of(owner), keys_of(owner), bucket_of(owner), shadow_bucket_of(place_of(owner)), in_flight_of(owner))
-- Those of earlier shadow policies expire.
call('DEL', usage_of('key', owner), usage_of('shadow', owner .. ':' .. whole(user[7][2]) .. ':' .. user[7][3]))
return user
