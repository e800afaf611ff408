-- ARGV: account, kind, user, data. One event of the account's feed.
post(ARGV[1], ARGV[2], ARGV[3], ARGV[4])
return 1
