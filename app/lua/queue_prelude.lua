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

-- Milliseconds since 1970 as ISO 8601 in UTC. The calendar begins in March of the year 0: a leap day then ends its year.
local function iso(ms)
  local days = math.floor(ms / 86400000)
  local left = ms - days * 86400000
  local day = days + 719468
  local era = math.floor(day / 146097)
  day = day - era * 146097
  local year = math.floor((day - math.floor(day / 1460) + math.floor(day / 36524) - math.floor(day / 146096)) / 365)
  day = day - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * day + 2) / 153)
  day = day - math.floor((153 * month + 2) / 5) + 1
  year, month = year + era * 400, month + 3
  if month > 12 then year, month = year + 1, month - 12 end
  return string.format('%04d-%02d-%02dT%02d:%02d:%06.3fZ', year, month, day, math.floor(left / 3600000),
    math.floor(left / 60000) % 60, left % 60000 / 1000)
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
