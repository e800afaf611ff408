-- ARGV: group, claim token, lease in ms, most. Delivers entries whose lease or pause ended, then new ones, each leased
-- to the token. Returns flat: entry, M, deliveries, ... Entries whose message is deleted are acknowledged on the way.
local group, token, most = ARGV[1], ARGV[2], tonumber(ARGV[4])
local now = now_ms()
local due = now + tonumber(ARGV[3])
local out = {}
local function deliver(entry, M, deliveries)
  if M and redis.call('EXISTS', hash_of(M)) == 1 then
    set_claim(group, entry, token, deliveries, due)
    for _, v in ipairs({entry, M, deliveries}) do out[#out + 1] = v end
  else
    acknowledge(group, entry)
    redis.call('XDEL', base .. 'finished', entry)
  end
end
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', base .. 'due:' .. group, '-inf', now, 'LIMIT', 0, most)) do
  local _, deliveries = claim_of(group, entry)
  deliver(entry, member_of(entry), deliveries + 1)
end
local room = most - #out / 3
if room >= 1 then
  local new = redis.call('XREADGROUP', 'GROUP', group, 'reprise', 'COUNT', room, 'STREAMS', base .. 'finished', '>')
  if new then
    for _, item in ipairs(new[1][2]) do deliver(item[1], item[2][2], 1) end
  end
end
return out
