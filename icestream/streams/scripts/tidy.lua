-- Tidy the streams: make entries pending again that were delivered and are nobody's, delete consumers that hold nothing, and trim
-- results and truths that no recorder has ever asked for.
-- An entry becomes nobody's when its consumer is deleted (XGROUP DELCONSUMER), or when the group is set forward (XGROUP SETID).
-- KEYS: events, directions, truth if it is of these events
-- ARGV: group, consumer that the entries are given to, ms without renewal that they are given (so that they can be claimed),
--       most entries to look at, ms after which an idle consumer is deleted, most bytes of results, and of truths, where no
--       group reads
-- Returns the number of entries that were nobody's, and the number of entries of results that were trimmed.
local trimmed = { 0, 0, 0 }
for i = 2, #KEYS do
    local readers = redis.pcall('XINFO', 'GROUPS', KEYS[i])
    if not readers.err and #readers == 0 then
        local share = tonumber(ARGV[6]) / redis.call('MEMORY', 'USAGE', KEYS[i], 'SAMPLES', 0)
        if share < 1 then
            trimmed[i] = redis.call('XTRIM', KEYS[i], 'MAXLEN', '~', math.floor(redis.call('XLEN', KEYS[i]) * share))
        end
    end
end
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err then return {0, trimmed[2]} end
local last
for _, flat in ipairs(groups) do
    local group = {}
    for i = 1, #flat, 2 do group[flat[i]] = flat[i + 1] end
    if group['name'] == ARGV[1] then last = group['last-delivered-id'] end
end
if not last then return {0, trimmed[2]} end
local found = 0
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', last, 'COUNT', ARGV[4])) do
    if #redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1) == 0 then
        redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, entry[1], 'IDLE', ARGV[3], 'RETRYCOUNT', 1, 'FORCE', 'JUSTID')
        found = found + 1
    end
end
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local consumer = {}
    for i = 1, #flat, 2 do consumer[flat[i]] = flat[i + 1] end
    if consumer['pending'] == 0 and consumer['idle'] > tonumber(ARGV[5]) then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer['name'])
    end
end
return {found, trimmed[2]}
