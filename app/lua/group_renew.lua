-- ARGV: group, claim token, lease in ms, entries... Returns those whose claim is no longer this token's.
local lost = {}
local due = now_ms() + tonumber(ARGV[3])
for i = 4, #ARGV do
  if claim_of(ARGV[1], ARGV[i]) == ARGV[2] then
    redis.call('ZADD', base .. 'due:' .. ARGV[1], due, ARGV[i])
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
