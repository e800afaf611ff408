-- Ends a message whose deadline has passed, whoever owns it. ARGV: M, channel prefix, error JSON without request_id.
-- Returns {'failed', hash...}, {'final', hash...} when it has ended already, or {'none'}.
local M = ARGV[1]
local hash = hash_of(M)
local state = redis.call('HMGET', hash, 's', 'n', 'w', 'p', 'ri')
if not state[1] or is_final(state[1]) then unschedule(M) end
if not state[1] then return {'none'} end
if is_final(state[1]) then return {'final', unpack(redis.call('HGETALL', hash))} end
local now = now_ms()
if tonumber(state[4]) > now then return {'none'} end
local seq = tonumber(state[2]) + 1
local body = string.sub(ARGV[3], 1, -2) .. ',"request_id":"' .. (state[5] or '') .. '"}'
redis.call('XADD', log_of(M), seq .. '-0', 'x', body)
redis.call('HSET', hash, 'n', seq, 'er', body)
close(M, 'error', now, state[3])
tell(ARGV[2], state[3], M)
return {'failed', unpack(redis.call('HGETALL', hash))}
