-- Shared by the consumer groups' scripts, after prelude.lua. Of a delivered entry, `claims:G` holds
-- "<claim token>|<deliveries>" and `due:G` the time its lease (or its pause before the next try) ends.
local function claim_of(group, entry)
  local claim = redis.call('HGET', base .. 'claims:' .. group, entry)
  if not claim then return nil, 0 end
  local token, deliveries = string.match(claim, '^(.*)|(%d+)$')
  return token, tonumber(deliveries)
end

local function set_claim(group, entry, token, deliveries, due)
  redis.call('HSET', base .. 'claims:' .. group, entry, token .. '|' .. deliveries)
  redis.call('ZADD', base .. 'due:' .. group, due, entry)
end

local function acknowledge(group, entry)
  redis.call('XACK', base .. 'finished', group, entry)
  redis.call('HDEL', base .. 'claims:' .. group, entry)
  redis.call('ZREM', base .. 'due:' .. group, entry)
end

local function member_of(entry)
  local found = redis.call('XRANGE', base .. 'finished', entry, entry)
  return found[1] and found[1][2][2]
end

-- The group waits no longer for the message. Once none does, the feed entry goes and the retention starts.
local function settle(group, M)
  local state = redis.call('HMGET', hash_of(M), 'gw', 'fe', 'rt', 's')
  if not state[4] or not state[1] or state[1] == '' then return end
  local left = {}
  for name in string.gmatch(state[1], '[^,]+') do
    if name ~= group then left[#left + 1] = name end
  end
  redis.call('HSET', hash_of(M), 'gw', table.concat(left, ','))
  if #left == 0 then
    if state[2] then redis.call('XDEL', base .. 'finished', state[2]) end
    redis.call('HDEL', hash_of(M), 'fe')
    expire_all(M, tonumber(state[3]) * 1000)
  end
end
