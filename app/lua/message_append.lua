-- The hot one. ARGV: M, claim token, tokens so far, content written (0|1), ms to first token ('' when none yet),
-- first seq, then field, value pairs. Returns the log's last seq + 1 when all is in it, its negative when events before
-- `first` are missing there (send again from last + 1), or false when the claim is lost.
local M = ARGV[1]
local hash = hash_of(M)
local state = redis.call('HMGET', hash, 'k', 'n')
if not state[1] or state[1] ~= ARGV[2] then return false end
local last, seen = append(M, tonumber(state[2]), tonumber(ARGV[6]), 7)
if not last then return -seen - 1 end
if ARGV[5] == '' then
  redis.call('HSET', hash, 'n', last, 'tp', ARGV[3], 'cd', ARGV[4], 'u', now_ms())
else
  redis.call('HSET', hash, 'n', last, 'tp', ARGV[3], 'cd', ARGV[4], 'u', now_ms(), 'f', ARGV[5])
end
return last + 1
