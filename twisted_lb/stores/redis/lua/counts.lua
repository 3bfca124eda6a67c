-- Counts by time (see twisted_lb/usage.py); this text comes after bucket.lua in the scripts about them.
--
-- A subject is one hash, tokenlb:usage:{<subject>}, with a field for each minute of the hour and each half hour of the day:
--   m<minute % 60>, h<half hour % 48>   '<minute or half hour since 1970> <counter>=<number> <counter>=<number> ...'
-- A field is replaced when its minute, or half hour, comes again.  So a hash has at most 108 fields, which Redis keeps in
-- the compact form of small hashes.

local PERIODS = {{'m', 60, 60}, {'h', 1800, 48}} -- the letter, seconds in a slot, slots
local MOST_COUNTED = 2 ^ 53 - 1
local second = floor(now / 1000000)

-- Add the counts in the text of a slot to `into`, a table from names to numbers; new names are appended to `names`.
local function add_text(text, into, names)
  for name, count in text:gmatch('(%S+)=(%d+)') do
    if not into[name] then
      names[#names + 1] = name
    end
    into[name] = min((into[name] or 0) + (number(count, 0, MOST_COUNTED) or 0), MOST_COUNTED)
  end
end

local function slot_of(text)
  return tonumber(text:match('^(%d+) ') or '')
end
