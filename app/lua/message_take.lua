-- steps: queue_claim, message_claim
-- Takes the next messages, slot and claim at once, where one partition holds both. ARGV: how many, lease in ms, worker,
-- claim token, again (0|1). Returns M, message_claim's reply, M, ... A token takes once: a repeat (`again`, or sent a
-- second time by the client) gives what the first has taken, and a first that comes after its repeat takes nothing.
local worker, token = ARGV[3], ARGV[4]
local members = {}
if redis.call('SET', base .. 'took:' .. token, 1, 'NX', 'PX', 30000) and ARGV[5] == '0' then
  members = queue_claim(ARGV)
else
  for _, M in ipairs(redis.call('SMEMBERS', base .. 'own:' .. worker)) do
    if redis.call('HGET', hash_of(M), 'k') == token then members[#members + 1] = M end
  end
end
local out = {}
for _, M in ipairs(members) do
  out[#out + 1] = M
  out[#out + 1] = message_claim({M, worker, token})
end
return out
