-- Find the outcome of the last call of a process, whose reply was lost, and prevent a later execution of earlier calls.
--   KEYS[1]  tokenlb:last:<process>, see take_tokens.lua
--   ARGV     a number above those of all calls so far
-- Reply: what take_tokens.lua has written there, or nil.  The same call again gives the same reply.

local last = read('GET', KEYS[1])
local rest = last and last:match('^%d+( .*)$') or ' 0 '
call('SET', KEYS[1], ARGV[1] .. rest, 'EX', LAST_TTL)
return last or false
