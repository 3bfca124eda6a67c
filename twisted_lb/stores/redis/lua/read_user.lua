-- A user, by name.  Writes nothing.
--   ARGV   how many forms of the name; the forms
-- Reply: see `user_at`; nil where there is none, an empty list where what is there is not a user.

local owner, user = named_user()
return user or owner and user == false and {} or false
