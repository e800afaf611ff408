-- ARGV: group, entry, claim token, M. Acknowledges and settles; 0 when the claim is another's: nothing is changed then.
if claim_of(ARGV[1], ARGV[2]) ~= ARGV[3] then return 0 end
acknowledge(ARGV[1], ARGV[2])
settle(ARGV[1], ARGV[4])
return 1
