-- ARGV: account, kind, user, data, event id (or none). One event of the account's feed. An id that was posted within the
-- last day is not posted again: its sender may die before it has noted that it was. Returns 1 when it was posted.
if ARGV[5] then
  local told, now = base .. 'told:' .. ARGV[1], now_ms()
  redis.call('ZREMRANGEBYSCORE', told, '-inf', now - 86400000)
  if redis.call('ZADD', told, 'NX', now, ARGV[5]) == 0 then return 0 end
  redis.call('PEXPIRE', told, 86400000)
end
post(ARGV[1], ARGV[2], ARGV[3], ARGV[4])
return 1
