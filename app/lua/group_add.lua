-- ARGV: group. The group counts for messages that finish from now on. Returns 1 when it is new.
if redis.call('SADD', base .. 'groups', ARGV[1]) == 0 then return 0 end
redis.call('XGROUP', 'CREATE', base .. 'finished', ARGV[1], '$', 'MKSTREAM')
return 1
