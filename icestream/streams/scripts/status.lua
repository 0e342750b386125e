-- Read the state of the streams; writes nothing.
-- KEYS: events, directions, rejected, sign of life of the emitters, counter of results
-- ARGV: group of the bridges, group of the recorder, most entries to count where Redis does not know a group's lag,
--       oldest entries that are looked at whether a bridge holds them, ms that a sign of life lasts
-- Returns JSON. The oldest of some entries is its id and its age in ms by the server's clock, and missing where there is nothing.
-- Where the clock was set back, ids are ahead of it, and ages negative.
local now = redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)

local function as_map(flat)
    local map = {}
    for i = 1, #flat, 2 do map[flat[i]] = flat[i + 1] end
    return map
end

local function all(...) -- a list of maps; empty if the stream or the group does not exist
    local reply, maps = redis.pcall('XINFO', ...), {}
    if not reply.err then for i, flat in ipairs(reply) do maps[i] = as_map(flat) end end
    return maps
end

local function stream(key)
    local reply = redis.pcall('XINFO', 'STREAM', key)
    return reply.err and {} or as_map(reply)
end

local function counter(key)
    local value = redis.pcall('GET', key)
    return type(value) == 'string' and tonumber(value) or 0
end

local function oldest(id) return id and { id, now_ms - tonumber(string.match(id, '^%d+')) } or nil end

local function pending(key, group)
    local reply = redis.pcall('XPENDING', key, group)
    if reply.err or reply[1] == 0 then return 0, nil end
    return reply[1], reply[2]
end

local function idle_ms(key, group)
    local idle = {}
    for i, consumer in ipairs(all('CONSUMERS', key, group)) do idle[i] = consumer['idle'] end
    return idle
end

local events = stream(KEYS[1])
local held, oldest_held = pending(KEYS[1], ARGV[1])

local last_delivered = '0-0'
for _, group in ipairs(all('GROUPS', KEYS[1])) do
    if group['name'] == ARGV[1] then last_delivered = group['last-delivered-id'] end
end

-- The oldest event that no bridge holds: one of the oldest that is not pending, or the first behind those that were delivered.
local function oldest_unheld()
    for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', ARGV[4])) do
        local held_by = redis.pcall('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1)
        if held_by.err or #held_by == 0 then return entry[1] end
    end
    local first = redis.call('XRANGE', KEYS[1], '(' .. last_delivered, '+', 'COUNT', 1)[1]
    return first and first[1]
end

local unrecorded, oldest_unrecorded = pending(KEYS[2], ARGV[2])
local after, lag = '-', redis.call('XLEN', KEYS[2])
for _, group in ipairs(all('GROUPS', KEYS[2])) do
    if group['name'] == ARGV[2] then
        after, lag = '(' .. group['last-delivered-id'], group['lag']
        if not lag then lag = #redis.call('XRANGE', KEYS[2], after, '+', 'COUNT', ARGV[3]) end
    end
end
if not oldest_unrecorded then
    local first = redis.call('XRANGE', KEYS[2], after, '+', 'COUNT', 1)[1]
    oldest_unrecorded = first and first[1]
end

local life_ms = redis.call('PTTL', KEYS[4]) -- longer than a sign of life lasts: its end was set by a clock that was ahead
return cjson.encode({
    backlog = redis.call('XLEN', KEYS[1]),
    pending = held,
    oldest_pending = oldest(oldest_held),
    oldest_unheld = oldest(oldest_unheld()),
    last_event = (events['entries-added'] or 0) > 0 and oldest(events['last-generated-id']) or nil,
    unrecorded = unrecorded + lag,
    oldest_unrecorded = oldest(oldest_unrecorded),
    emitted_total = events['entries-added'] or 0,
    stored_total = counter(KEYS[5]),
    rejected = redis.call('XLEN', KEYS[3]),
    rejected_total = stream(KEYS[3])['entries-added'] or 0,
    emitter = life_ms > 0 and life_ms <= tonumber(ARGV[5]),
    bridges_idle_ms = idle_ms(KEYS[1], ARGV[1]),
    recorders_idle_ms = idle_ms(KEYS[2], ARGV[2]),
})
