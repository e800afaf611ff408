-- ARGV: M, channel prefix, event value, ms the log is kept for observers that are still reading. Returns
-- {'deleted', hash fields as they were...} or {'gone'}. The tombstone keeps the id from ever coming back.
local M = ARGV[1]
local hash = hash_of(M)
local state = redis.call('HMGET', hash, 's', 'n', 'w', 'rt', 'fe')
if not state[1] then return {'gone'} end
local before = redis.call('HGETALL', hash)
if not is_final(state[1]) then
  redis.call('XADD', log_of(M), (tonumber(state[2]) + 1) .. '-0', 'c', ARGV[3])
  tell(ARGV[2], state[3], M)
end
disown(M, state[3])
unschedule(M)
if state[5] then redis.call('XDEL', base .. 'finished', state[5]) end
redis.call('SET', base .. 't:' .. M, 1, 'PX', tonumber(state[4]) * 1000)
redis.call('DEL', hash, request_of(M))
redis.call('PEXPIRE', log_of(M), ARGV[4])
return {'deleted', unpack(before)}
