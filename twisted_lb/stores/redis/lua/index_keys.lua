-- Enter the first keys of some users in the index of keys.  They were created by an earlier version, which has no index and
-- may still be creating users.  May be repeated.
--   ARGV   the name to begin after (empty: before all names), how many users at most
-- Reply: the name to continue after, or nil.

local first = ARGV[1] == '' and '-' or '[' .. ARGV[1] .. '\1'
local members = call('ZRANGEBYLEX', 'tokenlb:names', first, '+', 'LIMIT', 0, tonumber(ARGV[2]))
if #members == 0 then
  return false
end
local added = {}
for i = 1, #members do
  added[2 * i - 1], added[2 * i] = 0, members[i]:sub(-64)
end
call('ZADD', 'tokenlb:first_keys', unpack(added))
return members[#members]:sub(1, -66)
