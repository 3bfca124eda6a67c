-- Change a user; empty arguments are left as they are.
--   ARGV   how many forms of the name; the forms; capacity, rate, level, state, metadata
--          capacity (0: remove it), rate and level of the shadow policy
--          quota ('-': remove it), and what was used of it
-- Reply: the user before and after, see `user_at`; nil if there is none, an empty list if the value is not a user.

local owner, user, at = named_user()
if not user then
  return user == false and {} or false
end
local place = place_of(owner)
if ARGV[at] ~= '' or ARGV[at + 1] ~= '' or ARGV[at + 2] ~= '' then
  local capacity = tonumber(ARGV[at]) or tonumber(user[3])
  local rate = ARGV[at + 1] ~= '' and ARGV[at + 1] or user[4]
  local level = min(tonumber(ARGV[at + 2]) or user[5], capacity * MICROTOKENS)
  local stamp = max(number(call('HGET', place, 'stamp'), 0, LAST_STAMP), now)
  call('HSET', place, 'capacity', whole(capacity), 'rate', rate, 'level', whole(level), 'stamp', whole(stamp))
end
if ARGV[at + 4] ~= '' then
  call('HSET', place, 'metadata', ARGV[at + 4])
end
local shadow, letters = tonumber(ARGV[at + 5]), {quota = has_quota(user.more), shadow = has_shadow(user.more)}
if shadow then
  local level = tonumber(ARGV[at + 7]) or user[7][2] > 0 and user[7][4] or shadow * MICROTOKENS
  write_shadow(owner, shadow, ARGV[at + 6], min(level, shadow * MICROTOKENS))
  letters.shadow = shadow > 0
end
local text, used = ARGV[at + 8], ARGV[at + 9]
local quota = letters.quota and quota_at(place) or nil
if text == '-' then
  call('HDEL', place, 'quota', 'quota_used', 'quota_starts', 'quota_ends', 'quota_told')
  letters.quota = false
elseif text ~= '' or used ~= '' and quota then
  -- As `changed_quota` in quotas.py.
  local new = {text ~= '' and text or quota.text, 0, 0, 0, 0}
  local kind, zone = new[1]:match('^%d+ (%l+ %l+) (.+)$')
  local before, before_zone = (quota and quota.text or ''):match('^%d+ (%l+ %l+) (.+)$')
  if kind == before and (quota.ends == 0 or now < quota.ends) then
    new[2], new[5] = quota.used, quota.told
    if zone == before_zone then
      new[3], new[4] = quota.starts, quota.ends
    end
  end
  if used ~= '' then
    new[2], new[3], new[4] = tonumber(used), 0, 0
  end
  write_quota(place, unpack(new))
  letters.quota = true
end
local state = ARGV[at + 3] ~= '' and ARGV[at + 3] or user[6]
local more = (letters.quota and 'q' or '') .. (letters.shadow and 's' or '')
if state ~= user[6] or more ~= user.more then
  write_key(owner, state, more, user[9])
end
if state ~= user[6] or letters.quota ~= has_quota(user.more) then
  for i = 9, #user do
    tell(user[i][1])
  end
end
return {user, user_at(owner)}
