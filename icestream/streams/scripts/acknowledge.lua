-- Acknowledge results, acknowledge and delete truths, and delete results that are older than an entry.
-- KEYS: directions, truth
-- ARGV: group, id of the oldest result to keep ('' for all), number of results, then the ids of results, then those of truths
local AT_ONCE = 1000 -- arguments of a command
redis.call('XACK', KEYS[1], ARGV[1], '0-0') -- no entry; but a script that has begun to write may go on in a full Redis
local truths = 4 + tonumber(ARGV[3])
for i = 4, truths - 1, AT_ONCE do
    redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, i, math.min(i + AT_ONCE, truths) - 1))
end
for i = truths, #ARGV, AT_ONCE do
    local last = math.min(i + AT_ONCE - 1, #ARGV)
    redis.call('XACK', KEYS[2], ARGV[1], unpack(ARGV, i, last))
    redis.call('XDEL', KEYS[2], unpack(ARGV, i, last))
end
if ARGV[2] ~= '' then redis.call('XTRIM', KEYS[1], 'MINID', ARGV[2]) end
