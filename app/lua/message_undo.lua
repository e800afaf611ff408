-- Takes back a create that the queue refused: nobody has been told of the message yet. ARGV: M, nonce.
local M = ARGV[1]
local state = redis.call('HMGET', hash_of(M), 's', 'nc', 'a')
if state[1] ~= 'pending' or state[2] ~= ARGV[2] or state[3] ~= '0' then return 0 end
unschedule(M)
redis.call('DEL', hash_of(M), log_of(M), request_of(M), base .. 'i:' .. M)
return 1
