-- Create a group of each stream, from its first entry, unless it exists.
-- KEYS: streams
-- ARGV: group
for _, key in ipairs(KEYS) do
    redis.call('XACK', key, ARGV[1], '0-0') -- no entry; but a script that has begun to write may go on in a full Redis
    local made = redis.pcall('XGROUP', 'CREATE', key, ARGV[1], '0', 'MKSTREAM')
    if type(made) == 'table' and made.err and not string.find(made.err, 'BUSYGROUP', 1, true) then return made end
end
