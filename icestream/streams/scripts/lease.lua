-- Take or renew a lease, or give it up.
-- KEYS: the lease
-- ARGV: holder, ms that it lasts (0 gives it up), 1 to renew it only
-- Returns the holder; nothing if there is none.
local value = redis.call('GET', KEYS[1])
local holder, lasts_ms = string.match(value or '', '^(.+) (%d+)$')
holder = holder or value -- of a version that did not write how long it lasts
-- One that ends later than it may was taken by a clock that was ahead: its end is kept as a time of day.
if lasts_ms and redis.call('PTTL', KEYS[1]) > tonumber(lasts_ms) then holder = nil end
if not holder and ARGV[3] ~= '1' then holder = ARGV[1] end
if holder == ARGV[1] then
    redis.call('DEL', KEYS[1]) -- first: a script that has begun to write may go on in a full Redis
    if ARGV[2] ~= '0' then redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[2]) end
end
return holder or ''
