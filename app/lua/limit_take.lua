-- Counts one request in each of several counters, unless one of them is full already: then in none.
-- ARGV: window (ms), then for each counter its name and its limit. Answers the place of a full one, 0 for none, and
-- what each counts now.
local full, counts = 0, {}
for place = 1, (#ARGV - 1) / 2 do
  local limit = tonumber(ARGV[place * 2 + 1])
  counts[place] = tonumber(redis.call('GET', base .. 'rate:' .. ARGV[place * 2]) or '0')
  if full == 0 and counts[place] >= limit then full = place end
end
if full == 0 then
  for place = 1, #counts do
    local key = base .. 'rate:' .. ARGV[place * 2]
    counts[place] = redis.call('INCR', key)
    if counts[place] == 1 then redis.call('PEXPIRE', key, ARGV[1]) end
  end
end
return {full, unpack(counts)}
