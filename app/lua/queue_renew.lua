-- ARGV: lease in ms, then M, M, ...: their workers still hold these running slots.
local expiry = now_ms() + tonumber(ARGV[1])
for i = 2, #ARGV do redis.call('ZADD', base .. 'leases', 'XX', expiry, ARGV[i]) end
return 1
