-- Shared by every script: it is put in front of each. KEYS[1] is the partition's key prefix, hash tag included; every
-- other key is made from it, so it lies in the same cluster slot. M is "<account>/<message id>".
local base = KEYS[1]

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function hash_of(M) return base .. 'm:' .. M end
local function log_of(M) return base .. 'l:' .. M end
local function request_of(M) return base .. 'q:' .. M end

local function is_final(status)
  return status == 'completed' or status == 'cancelled' or status == 'error'
end

-- Appends ARGV[from], ARGV[from + 1], ... (field, value pairs) as events first, first + 1, ... Events that the log has
-- already are skipped: a repeated call changes nothing. Returns the new last seq, or nil and the last seq when events
-- before `first` are missing (lost in a failover): the writer then sends them again.
-- Worked example: the log ends at 7, a writer repeats 6, 7 and adds 8: 6 and 7 are skipped, 8 is added, 8 returned.
local function append(M, last, first, from)
  local attempt_start = first % 1000000 == 1
  if first > last + 1 and not attempt_start then return nil, last end
  local log = log_of(M)
  local seq = first
  for i = from, #ARGV - 1, 2 do
    if seq > last then
      redis.call('XADD', log, seq .. '-0', ARGV[i], ARGV[i + 1])
      last = seq
    end
    seq = seq + 1
  end
  return last, last
end

local function disown(M, worker)
  if worker and worker ~= '' then redis.call('SREM', base .. 'own:' .. worker, M) end
end

local function unschedule(M)
  redis.call('ZREM', base .. 'due', M)
  redis.call('ZREM', base .. 'check', M)
  redis.call('ZREM', base .. 'unseen', M)
end

local THIRTY_DAYS_MS = 2592000000

local function expire_all(M, ms)
  redis.call('PEXPIRE', hash_of(M), ms)
  redis.call('PEXPIRE', log_of(M), ms)
  redis.call('PEXPIRE', request_of(M), ms)
end

-- The one way into a final state: status, owner, schedules, retention and the feed entry change together. Retention
-- counts from here when no consumer group waits for the message; otherwise its last group_done starts it, and thirty days
-- are the most an unsettled message is kept beyond its retention. group_done settles.
local function close(M, status, now, worker)
  local hash = hash_of(M)
  redis.call('HSET', hash, 's', status, 'u', now, 'd', now)
  redis.call('HDEL', hash, 'k', 'w')
  disown(M, worker)
  unschedule(M)
  local retention = tonumber(redis.call('HGET', hash, 'rt')) * 1000
  local groups = redis.call('SMEMBERS', base .. 'groups')
  if #groups == 0 then
    expire_all(M, retention)
  else
    table.sort(groups)
    local entry = redis.call('XADD', base .. 'finished', '*', 'm', M)
    redis.call('HSET', hash, 'fe', entry, 'gw', table.concat(groups, ','))
    redis.call('PUBLISH', string.match(base, '^(.*:){') .. 'done', 1)
    expire_all(M, retention + THIRTY_DAYS_MS)
  end
end

-- Tells the worker that runs M, if any, that M is no longer its own. Only saves time: its next append is refused anyway.
local function tell(channel_prefix, worker, M)
  if worker and worker ~= '' then redis.call('PUBLISH', channel_prefix .. 'ctl:' .. worker, M) end
end
