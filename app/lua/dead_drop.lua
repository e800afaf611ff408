-- ARGV: dead letter id. The group gives the message up for good: it settles. Returns 'dropped' or 'unknown'.
local found = redis.call('XRANGE', base .. 'dead', ARGV[1], ARGV[1])
if not found[1] then return 'unknown' end
local letter = {}
for i = 1, #found[1][2], 2 do letter[found[1][2][i]] = found[1][2][i + 1] end
redis.call('XDEL', base .. 'dead', ARGV[1])
settle(letter.group, letter.message)
return 'dropped'
