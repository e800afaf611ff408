-- ARGV: M, worker, claim token. Returns {'claimed', attempt, last seq, request, restart value, hash fields...} or
-- {'gone'}, {'final', hash fields...}, {'owned'}. An attempt after the first finds its message_restart written already.
local M, worker, token = ARGV[1], ARGV[2], ARGV[3]
local hash = hash_of(M)
local state = redis.call('HMGET', hash, 's', 'w', 'a', 'c', 'k')
if not state[1] then return {'gone'} end
if is_final(state[1]) then return {'final', unpack(redis.call('HGETALL', hash))} end
if state[2] and state[2] ~= '' and state[5] ~= token then return {'owned'} end
local now = now_ms()
local attempt = tonumber(state[3])
if state[5] ~= token then
  attempt = attempt + 1
  redis.call('HSET', hash, 's', 'processing', 'a', attempt, 'k', token, 'w', worker, 'u', now)
  if attempt == 1 then redis.call('HSET', hash, 'q', now - tonumber(state[4])) end
  redis.call('SADD', base .. 'own:' .. worker, M)
  redis.call('SADD', base .. 'owners', worker)
  redis.call('ZREM', base .. 'check', M)
end
local restart = ''
if attempt > 1 then
  local id = ((attempt - 1) * 1000000 + 1) .. '-0'
  local entry = redis.call('XRANGE', log_of(M), id, id)
  if entry[1] then restart = entry[1][2][2] end
end
return {'claimed', attempt, tonumber(redis.call('HGET', hash, 'n')), redis.call('GET', request_of(M)) or '', restart,
  unpack(redis.call('HGETALL', hash))}
