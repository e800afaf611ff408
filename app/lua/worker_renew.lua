-- ARGV: worker, TTL in ms, then the messages (M) it believes it owns in this partition. Returns {was alive (0|1),
-- those that are no longer its own...}. A message taken away or ended by anyone else is found here at the latest.
local worker = ARGV[1]
local own = base .. 'own:' .. worker
local lost = {redis.call('EXISTS', base .. 'alive:' .. worker)}
for i = 3, #ARGV do
  if redis.call('SISMEMBER', own, ARGV[i]) == 0 then lost[#lost + 1] = ARGV[i] end
end
redis.call('SET', base .. 'alive:' .. worker, 1, 'PX', ARGV[2])
return lost
