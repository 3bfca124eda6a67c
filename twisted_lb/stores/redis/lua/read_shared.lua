-- The levels of buckets without an account now.  Writes nothing.
--   KEYS   their keys
--   ARGV   capacity and rate of each
-- Reply: the level of each, in microtokens; one that does not exist, or is not a bucket, is full.

local levels = {}
for i = 1, #KEYS do
  levels[i] = refilled_shared(KEYS[i], tonumber(ARGV[2 * i - 1]) * MICROTOKENS, tonumber(ARGV[2 * i]))
end
return levels
