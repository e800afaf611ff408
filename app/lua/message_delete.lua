-- ARGV: M, channel prefix, event value, ms the log is kept for observers that are still reading, nonce. Returns 'deleted'
-- (to a repeat of this very call as well) or 'gone'. The tombstone keeps the id from coming back and holds the nonce.
local M = ARGV[1]
local hash = hash_of(M)
local state = redis.call('HMGET', hash, 's', 'n', 'w', 'rt', 'fe')
if not state[1] then
  if redis.call('GET', base .. 't:' .. M) == ARGV[5] then return 'deleted' end
  return 'gone'
end
if not is_final(state[1]) then
  redis.call('XADD', log_of(M), (tonumber(state[2]) + 1) .. '-0', 'c', ARGV[3])
  tell(ARGV[2], state[3], M)
end
disown(M, state[3])
unschedule(M)
if state[5] then redis.call('XDEL', base .. 'finished', state[5]) end
redis.call('SET', base .. 't:' .. M, ARGV[5], 'PX', tonumber(state[4]) * 1000)
redis.call('DEL', hash, request_of(M))
redis.call('PEXPIRE', log_of(M), ARGV[4])
return 'deleted'
