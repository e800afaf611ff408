-- ARGV: dead letter id. Its entry is delivered again, with a full number of tries. Returns 'requeued', 'gone' (the
-- message was deleted or is past its retention: the letter is dropped) or 'unknown'.
local found = redis.call('XRANGE', base .. 'dead', ARGV[1], ARGV[1])
if not found[1] then return 'unknown' end
local letter = {}
for i = 1, #found[1][2], 2 do letter[found[1][2][i]] = found[1][2][i + 1] end
redis.call('XDEL', base .. 'dead', ARGV[1])
if not member_of(letter.entry) or redis.call('EXISTS', hash_of(letter.message)) == 0 then return 'gone' end
redis.call('HDEL', hash_of(letter.message), 'x:' .. letter.group)
set_claim(letter.group, letter.entry, '', 0, now_ms())
return 'requeued'
