-- A worker's last word: the remaining events, the terminal one last, and the final state. ARGV: M, claim token, status,
-- number of hash values that follow, those field, value pairs, first seq, then field, value pairs of events.
-- Returns {'done', hash fields...}, {'refill', last seq}, or {'lost'} when the claim is no longer this worker's. A repeat
-- by the one that finished is 'done' again: the reply was lost, and its caller has yet to free the slot.
local M = ARGV[1]
local hash = hash_of(M)
local state = redis.call('HMGET', hash, 'k', 'n', 'w', 'fk')
if state[4] == ARGV[2] then return {'done', unpack(redis.call('HGETALL', hash))} end
if not state[1] or state[1] ~= ARGV[2] then return {'lost'} end
local count = tonumber(ARGV[4])
local last, seen = append(M, tonumber(state[2]), tonumber(ARGV[5 + count]), 6 + count)
if not last then return {'refill', seen} end
redis.call('HSET', hash, 'n', last, 'fk', ARGV[2], unpack(ARGV, 5, 4 + count))
close(M, ARGV[3], now_ms(), state[3])
return {'done', unpack(redis.call('HGETALL', hash))}
