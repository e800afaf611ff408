-- ARGV: M, its time of creation, status (stored, skipped or failed), memory ids separated by spaces, error ('' for none).
-- What became of the message in memory, for its status. Returns 0, and changes nothing, when the message is gone, or was
-- deleted and another has its id by now.
local hash = hash_of(ARGV[1])
if redis.call('HGET', hash, 'c') ~= ARGV[2] then return 0 end
redis.call('HSET', hash, 'mw', ARGV[3], 'mi', ARGV[4], 'mx', ARGV[5])
return 1
