-- What needs looking after in this partition; changes nothing but the sweeper's lock. ARGV: lock in ms, most of each.
-- Returns false when another process swept just now, else {overdue, to check, unseen, orphans}; orphans is a flat list
-- of worker, M pairs whose worker's liveness key is gone.
if not redis.call('SET', base .. 'sweep', 1, 'NX', 'PX', ARGV[1]) then return false end
local now, most = now_ms(), tonumber(ARGV[2])
local function due(name) return redis.call('ZRANGEBYSCORE', base .. name, '-inf', now, 'LIMIT', 0, most) end
local orphans = {}
for _, worker in ipairs(redis.call('SMEMBERS', base .. 'owners')) do
  if redis.call('EXISTS', base .. 'alive:' .. worker) == 0 then
    local owned = redis.call('SRANDMEMBER', base .. 'own:' .. worker, most)
    if #owned == 0 then redis.call('SREM', base .. 'owners', worker) end
    for _, M in ipairs(owned) do
      orphans[#orphans + 1] = worker
      orphans[#orphans + 1] = M
    end
  end
end
return {due('due'), due('check'), due('unseen'), orphans}
