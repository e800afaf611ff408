-- A message ended: its place in the queue or its running slot goes, and the account's feed says so, in one step, so
-- that a repeat (by the sweep, say) says nothing twice. ARGV: account, id, kind, user, feed data, unlist (0|1), wake
-- channel. Returns 1 when it held a place.
local account, id = ARGV[1], ARGV[2]
local held = redis.call('ZREM', base .. 'wait:' .. account, id) + redis.call('SREM', base .. 'run:' .. account, id)
redis.call('ZREM', base .. 'leases', account .. '/' .. id)
if ARGV[6] == '1' then redis.call('ZREM', base .. 'list:' .. account, id) end
if held > 0 and ARGV[3] ~= '' then post(account, ARGV[3], ARGV[4], ARGV[5]) end
if settle_ready(account, false) then redis.call('PUBLISH', ARGV[7], 1) end
return held
