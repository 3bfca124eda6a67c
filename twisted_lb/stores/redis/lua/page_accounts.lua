-- Some accounts in the order of their names (as bytes), and the levels of their buckets now.  Writes nothing.
--   KEYS[1]  tokenlb:names, see create_account.lua
--   ARGV     the name to begin after (empty: before all names), how many at most
-- Reply: the name after which there are more, or nil; then of each account name, capacity as text, rate as text, level.

local first = ARGV[1] == '' and '-' or '[' .. ARGV[1] .. '\1'
local count = tonumber(ARGV[2])
local members = call('ZRANGEBYLEX', KEYS[1], first, '+', 'LIMIT', 0, count + 1)
-- A member is the name, a NUL, and the digest with 64 characters.
local reply = {#members > count and members[count]:sub(1, -66)}
local last = 1
for i = 1, min(#members, count) do
  local name, capacity, rate, level = refilled('tokenlb:{' .. members[i]:sub(-64) .. '}')
  if name then
    reply[last + 1], reply[last + 2], reply[last + 3], reply[last + 4] = name, whole(capacity), rate, level
    last = last + 4
  end
end
return reply
