-- A user, by name.  Writes nothing.
--   ARGV   how many forms of the name; the forms
-- Reply: see `user_at`; nil if there is none, an empty list if the value is not a user.

local owner, user = named_user()
return user or owner and user == false and {} or false
