-- Some users in the order of their names (as bytes).  Writes nothing.
--   ARGV   the name to begin after (empty: before all names), how many at most
-- Reply: the name after which there are more, or nil; then the users, see `user_at`.

local first = ARGV[1] == '' and '-' or '[' .. ARGV[1] .. '\1'
local count = tonumber(ARGV[2])
local members = call('ZRANGEBYLEX', 'tokenlb:names', first, '+', 'LIMIT', 0, count + 1)
local reply = {#members > count and members[count]:sub(1, -66)}
for i = 1, min(#members, count) do
  reply[#reply + 1] = user_at(members[i]:sub(-64)) or nil
end
return reply
