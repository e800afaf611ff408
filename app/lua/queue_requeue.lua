-- A message that lost its worker waits again, at its old place, unless it has ended since. ARGV: account, id, created_ms,
-- wake channel.
local account, id = ARGV[1], ARGV[2]
if has_ended(account, id, ARGV[3]) then return 1 end
free(account, id)
redis.call('ZADD', base .. 'wait:' .. account, ARGV[3], id)
if settle_ready(account, false) then redis.call('PUBLISH', ARGV[4], 1) end
return 1
