-- ARGV: account, id, created_ms, max_running, max_queued, force (0|1), user, feed data, age in ms beyond which
-- the list forgets, wake channel. A byte 1 in the data stands for the time of creation, which its sender need not know.
-- Returns 1 when the message waits (again), runs, or ended, 0 when the account's queue is full (nothing is changed then).
-- `force` is for repairs: a message that was accepted once is never refused later, and one whose lease ran out waits
-- again. Without it, a message that the list has already is a repeat of this very call.
local account, id, created, force = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[6] == '1'
local wait, run, list = base .. 'wait:' .. account, base .. 'run:' .. account, base .. 'list:' .. account
local listed = tonumber(redis.call('ZSCORE', list, id) or 0) == created
if has_ended(account, id, ARGV[3]) or redis.call('ZSCORE', wait, id) then return 1 end
if force then
  local lease = redis.call('ZSCORE', base .. 'leases', account .. '/' .. id)
  if lease and tonumber(lease) > now_ms() then return 1 end
  free(account, id)
elseif listed then
  return 1
elseif redis.call('ZCARD', wait) >= tonumber(ARGV[5]) then
  return 0
end
redis.call(force and 'HSETNX' or 'HSET', base .. 'limit:' .. account, 'r', ARGV[4])
redis.call('ZADD', wait, created, id)
if not listed then
  redis.call('ZREMRANGEBYSCORE', list, '-inf', created - ARGV[9])
  redis.call('ZADD', list, created, id)
  local data = string.gsub(ARGV[8], '\1', '"' .. iso(created) .. '"')
  post(account, 'message.created', ARGV[7], data)
end
if settle_ready(account, false) then redis.call('PUBLISH', ARGV[10], 1) end
return 1
