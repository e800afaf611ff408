-- ARGV: group, entry, claim token, M, reason, most deliveries (0: this one does not count), pause in ms. The entry is
-- tried again after the pause, or goes to the dead letters, where it stays unsettled: its message is kept and holds the
-- reason as `x:<group>`. Returns 'retry', 'dead' or 'lost'.
local group, entry = ARGV[1], ARGV[2]
local token, deliveries = claim_of(group, entry)
if token ~= ARGV[3] then return 'lost' end
local now = now_ms()
if ARGV[6] == '0' then
  set_claim(group, entry, '', deliveries - 1, now + tonumber(ARGV[7]))
  return 'retry'
elseif deliveries < tonumber(ARGV[6]) then
  set_claim(group, entry, '', deliveries, now + tonumber(ARGV[7]))
  return 'retry'
end
acknowledge(group, entry)
if redis.call('EXISTS', hash_of(ARGV[4])) == 1 then redis.call('HSET', hash_of(ARGV[4]), 'x:' .. group, ARGV[5]) end
redis.call('XADD', base .. 'dead', 'MINID', '~', (now - THIRTY_DAYS_MS) .. '-0', '*', 'group', group, 'entry', entry,
  'message', ARGV[4], 'reason', ARGV[5], 'deliveries', deliveries)
return 'dead'
