-- Take or renew a lease.
-- KEYS: the lease
-- ARGV: holder, ms that it lasts
-- Returns the holder.
local holder = redis.call('GET', KEYS[1]) or ARGV[1]
if holder == ARGV[1] then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return holder
