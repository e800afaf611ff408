-- A message is being generated: the account's feed says so, unless it gave its slot back meanwhile (then the feed has
-- told its end already, and must not go back). ARGV: account, id, user, feed data.
if redis.call('SISMEMBER', base .. 'run:' .. ARGV[1], ARGV[2]) == 0 then return 0 end
post(ARGV[1], 'message.processing', ARGV[3], ARGV[4])
return 1
