-- ARGV: how many, lease in ms. Takes the next messages, one an account in turn, and leases a running slot to each.
-- Returns M, M, ...
-- Worked example: A waits with 300, B with one, A has the turn: A's first, B's, A's second, ...
local most, lease = tonumber(ARGV[1]), tonumber(ARGV[2])
local taken = {}
while #taken < most do
  local account = redis.call('ZRANGE', base .. 'ready', 0, 0)[1]
  if not account then break end
  if settle_ready(account, false) then
    local id = redis.call('ZPOPMIN', base .. 'wait:' .. account)[1]
    redis.call('SADD', base .. 'run:' .. account, id)
    redis.call('ZADD', base .. 'leases', now_ms() + lease, account .. '/' .. id)
    taken[#taken + 1] = account .. '/' .. id
    settle_ready(account, true)
  end
end
return taken
