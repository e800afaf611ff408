-- Somebody observes these messages. ARGV: M, s until they are cancelled unless seen again, M, s, ...
local now = now_ms()
for i = 1, #ARGV, 2 do redis.call('ZADD', base .. 'unseen', 'XX', now + tonumber(ARGV[i + 1]) * 1000, ARGV[i]) end
return 1
