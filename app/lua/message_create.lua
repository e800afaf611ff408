-- ARGV: M, nonce, retention_s, deadline_ms (from now), unseen_s (0: never), idempotency digest ('' without), request
-- JSON, then field, value pairs of the hash. Returns {'created'|'same', created_ms} or {'taken'}.
-- A repeat of this very call (nonce) is 'created' again, for its caller has yet to put the message in the queue; 'same'
-- answers a twin under the same Idempotency-Key and body (digest).
local M, nonce, retention, digest = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[6]
local hash = hash_of(M)
local now = now_ms()
local idem = base .. 'i:' .. M
local before = redis.call('HMGET', hash, 'nc', 'c', 'ib')
if before[1] == nonce then return {'created', tonumber(before[2])} end
if digest ~= '' then
  local first = redis.call('HMGET', idem, 'd', 'c')
  if first[1] then
    if first[1] == digest then return {'same', tonumber(first[2])} end
    return {'taken'}
  end
end
if redis.call('EXISTS', base .. 't:' .. M) == 1 then return {'taken'} end
if before[2] then
  if digest ~= '' and before[3] == digest then return {'same', tonumber(before[2])} end
  return {'taken'}
end
local deadline = now + tonumber(ARGV[4])
redis.call('HSET', hash, 's', 'pending', 'c', now, 'u', now, 'a', 0, 'l', 0, 'n', 0, 'tp', 0, 'rt', retention,
  'p', deadline, 'nc', nonce)
redis.call('HSET', hash, unpack(ARGV, 8))
redis.call('SET', request_of(M), ARGV[7])
redis.call('ZADD', base .. 'due', deadline, M)
redis.call('ZADD', base .. 'check', now + 10000, M)
if ARGV[5] ~= '0' then
  redis.call('HSET', hash, 'cu', ARGV[5])
  redis.call('ZADD', base .. 'unseen', now + tonumber(ARGV[5]) * 1000, M)
end
if digest ~= '' then
  redis.call('HSET', hash, 'ib', digest)
  redis.call('HSET', idem, 'd', digest, 'c', now)
  redis.call('PEXPIRE', idem, 86400000)
end
return {'created', now}
