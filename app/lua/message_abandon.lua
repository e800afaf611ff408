-- Takes a claim away: from a dead worker (ARGV[2] = 'dead', ARGV[3] = its name; refused while its liveness key stands)
-- or from one that hands it back ('handback', its claim token). ARGV: M, how, who, most losses, channel prefix, error
-- JSON without request_id, reason. Returns {'requeue', hash...}, {'failed', hash...} or {'none'}.
-- The restart is written here, by the finder, so that observers learn of it before any worker is free to go on.
local M, how, who = ARGV[1], ARGV[2], ARGV[3]
local hash = hash_of(M)
local state = redis.call('HMGET', hash, 's', 'w', 'k', 'a', 'l', 'ow', 'cd', 'n', 'ri')
if state[1] ~= 'processing' then
  if how == 'dead' then redis.call('SREM', base .. 'own:' .. who, M) end
  return {'none'}
end
if how == 'dead' then
  if state[2] ~= who then
    redis.call('SREM', base .. 'own:' .. who, M)
    return {'none'}
  end
  if redis.call('EXISTS', base .. 'alive:' .. who) == 1 then return {'none'} end
elseif state[3] ~= who then
  return {'none'}
end
local now = now_ms()
local losses = tonumber(state[5])
if how == 'dead' then losses = losses + 1 end
if losses >= tonumber(ARGV[4]) or (state[6] == 'e' and state[7] == '1') then
  local seq = tonumber(state[8]) + 1
  local body = string.sub(ARGV[6], 1, -2) .. ',"request_id":"' .. (state[9] or '') .. '"}'
  redis.call('XADD', log_of(M), seq .. '-0', 'x', body)
  redis.call('HSET', hash, 'n', seq, 'l', losses, 'er', body)
  close(M, 'error', now, state[2])
  tell(ARGV[5], state[2], M)
  return {'failed', unpack(redis.call('HGETALL', hash))}
end
local attempt = tonumber(state[4]) + 1
local seq = (attempt - 1) * 1000000 + 1
redis.call('XADD', log_of(M), seq .. '-0', 'r', '{"attempt":' .. attempt .. ',"reason":"' .. ARGV[7] .. '"}')
redis.call('HSET', hash, 'n', seq, 'l', losses, 'cd', 0, 'tp', 0, 'u', now)
redis.call('HDEL', hash, 'k', 'w', 'f')
disown(M, state[2])
redis.call('ZADD', base .. 'check', now + 10000, M)
tell(ARGV[5], state[2], M)
return {'requeue', unpack(redis.call('HGETALL', hash))}
