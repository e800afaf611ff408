-- A message ended: its place in the queue or its running slot goes, and the account's feed says so, in one step, so
-- that a repeat (by the sweep, say) says nothing twice. ARGV: account, id, created_ms ('' when its record is gone), kind,
-- user, feed data, unlist (0|1), wake channel. Returns 1 when it held a place.
local account, id, created, kind, unlist = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[7] == '1'
local held = redis.call('ZREM', base .. 'wait:' .. account, id) + free(account, id)
if unlist then redis.call('ZREM', base .. 'list:' .. account, id) end
if created ~= '' and (held > 0 or unlist) then remember_end(account, id, created) end
if held > 0 and kind ~= '' then post(account, kind, ARGV[5], ARGV[6]) end
if settle_ready(account, false) then redis.call('PUBLISH', ARGV[8], 1) end
return held
