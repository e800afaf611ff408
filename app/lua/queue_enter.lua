-- ARGV: account, id, created_ms, max_running, max_queued, force (0|1), user, feed data, list horizon_ms, wake channel.
-- Returns 1 when the message waits (again), 0 when the account's queue is full (nothing is changed then).
-- `force` is for repairs and requeues: a message that was accepted once is never refused later.
local account, id, created = ARGV[1], ARGV[2], tonumber(ARGV[3])
local wait, member = base .. 'wait:' .. account, account .. '/' .. id
if redis.call('ZSCORE', wait, id) then return 1 end
if ARGV[6] == '1' then
  if redis.call('SISMEMBER', base .. 'run:' .. account, id) == 1 then return 1 end
elseif redis.call('ZCARD', wait) >= tonumber(ARGV[5]) then
  return 0
end
redis.call(ARGV[6] == '1' and 'HSETNX' or 'HSET', base .. 'limit:' .. account, 'r', ARGV[4])
redis.call('ZADD', wait, created, id)
local list = base .. 'list:' .. account
if not redis.call('ZSCORE', list, id) then
  redis.call('ZREMRANGEBYSCORE', list, '-inf', ARGV[9])
  redis.call('ZADD', list, created, id)
  post(account, 'message.created', ARGV[7], ARGV[8])
end
if settle_ready(account, false) then redis.call('PUBLISH', ARGV[10], 1) end
return 1
