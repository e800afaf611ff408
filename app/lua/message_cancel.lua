-- ARGV: M, channel prefix, why ('user', 'unobserved' or 'deleted'), event value. Returns {'cancelled'|'already'|'final'|'seen',
-- hash fields...} or {'gone'}. The first to finish wins: after 'cancelled' no event is ever numbered after this one.
local M = ARGV[1]
local hash = hash_of(M)
local state = redis.call('HMGET', hash, 's', 'n', 'w')
if not state[1] then return {'gone'} end
if state[1] == 'cancelled' then return {'already', unpack(redis.call('HGETALL', hash))} end
if is_final(state[1]) then return {'final', unpack(redis.call('HGETALL', hash))} end
local now = now_ms()
if ARGV[3] == 'unobserved' then
  local due = redis.call('ZSCORE', base .. 'unseen', M)
  if not due or tonumber(due) > now then return {'seen'} end
end
local seq = tonumber(state[2]) + 1
redis.call('XADD', log_of(M), seq .. '-0', 'c', ARGV[4])
redis.call('HSET', hash, 'n', seq, 'cw', ARGV[3])
close(M, 'cancelled', now, state[3])
tell(ARGV[2], state[3], M)
return {'cancelled', unpack(redis.call('HGETALL', hash))}
