-- A consumer group is done with a finished message. ARGV: M, group. Once no group waits any more the feed entry goes
-- and the retention starts. Returns the groups still waited for, or -1 when the message is gone.
local M, group = ARGV[1], ARGV[2]
local hash = hash_of(M)
local state = redis.call('HMGET', hash, 'gw', 'fe', 'rt', 's')
if not state[4] then return -1 end
if not state[1] or state[1] == '' then return 0 end
local left = {}
for name in string.gmatch(state[1], '[^,]+') do
  if name ~= group then left[#left + 1] = name end
end
redis.call('HSET', hash, 'gw', table.concat(left, ','))
if #left == 0 then
  if state[2] then redis.call('XDEL', base .. 'finished', state[2]) end
  redis.call('HDEL', hash, 'fe')
  expire_all(M, tonumber(state[3]) * 1000)
end
return #left
