-- Shared by the queue's scripts, after prelude.lua. An account stands in `ready` while it has waiting work and a free
-- running slot; its score is its turn, so that the account served longest ago comes next.
local function settle_ready(account, renew_turn)
  local limit = tonumber(redis.call('HGET', base .. 'limit:' .. account, 'r') or '1')
  local waiting = redis.call('ZCARD', base .. 'wait:' .. account)
  if waiting == 0 or redis.call('SCARD', base .. 'run:' .. account) >= limit then
    redis.call('ZREM', base .. 'ready', account)
    return false
  end
  if renew_turn or not redis.call('ZSCORE', base .. 'ready', account) then
    redis.call('ZADD', base .. 'ready', redis.call('INCR', base .. 'turn'), account)
  end
  return true
end

-- Gives a running slot back. Returns 1 when the message held one.
local function free(account, id)
  redis.call('ZREM', base .. 'leases', account .. '/' .. id)
  return redis.call('SREM', base .. 'run:' .. account, id)
end

-- Adds an event to the account's feed, kept for 24 h. `data` is the whole body.
local function post(account, kind, user, data)
  local feed = base .. 'feed:' .. account
  local from = (now_ms() - 86400000) .. '-0'
  redis.call('XADD', feed, 'MINID', '~', from, '*', 'k', kind, 'u', user, 'd', data)
  redis.call('PEXPIRE', feed, 86400000)
end

-- An end that the account was told of is remembered for a minute, so that nobody who looked before it, and acts after
-- it, puts the message back in the queue. A member is an id and its time of creation, for an id may come again.
local TOLD_MS = 60000

local function remember_end(account, id, created)
  local ended, now = base .. 'ended:' .. account, now_ms()
  redis.call('ZREMRANGEBYSCORE', ended, '-inf', now - TOLD_MS)
  redis.call('ZADD', ended, now, id .. ' ' .. created)
  redis.call('PEXPIRE', ended, TOLD_MS)
end

local function has_ended(account, id, created)
  return redis.call('ZSCORE', base .. 'ended:' .. account, id .. ' ' .. created)
end
