-- A worker has begun a message: the account's feed says so, unless the message has ended meanwhile. ARGV: account, id,
-- kind, user, feed data.
local account, id = ARGV[1], ARGV[2]
if redis.call('SISMEMBER', base .. 'run:' .. account, id) == 0 and not redis.call('ZSCORE', base .. 'wait:' .. account, id) then
  return 0
end
post(account, ARGV[3], ARGV[4], ARGV[5])
return 1
