-- Store the results of one request: add them as one entry, less those of events that have a result, then acknowledge and delete
-- the entries of their events.
-- Those go last: if Redis refuses a command (permissions, a key of another type), they stay pending and nothing is lost.
-- KEYS: events, directions, shown, done, counter of results, copies for the challenger, counter of those that were dropped,
--       counter of the challenger's results, then the hash of each run
-- ARGV: group, field, ms within which two entries of one event are one, most events to remember, shown entries to keep,
--       seconds to keep the hash of a run, the results without the time at which they are stored (wire.py), their rows, event to
--       show ('' for none), number of its row, numbers of the rows whose events are copied, most copies to keep, most bytes of
--       one, seconds that they are kept; then for each row entry id, "run_id:event_id", number of its run
-- Returns for each row: 0 another bridge has dealt with the entry, 1 stored, 2 duplicate.
local FIRST, RUNS = 15, 8 -- the first argument of the first row, keys before those of runs
local count = (#ARGV - FIRST + 1) / 3
local size = #ARGV[8] / count -- of a row
local window, most = tonumber(ARGV[3]), tonumber(ARGV[4])
redis.call('XACK', KEYS[1], ARGV[1], '0-0') -- no entry; but a script that has begun to write may go on in a full Redis
-- What is refused is refused here, before a result is stored.
redis.call('INCRBY', KEYS[5], 0)
local counted_runs = {} -- those that were begun: anybody may write events of any run
for i = RUNS + 1, #KEYS do
    if redis.call('EXISTS', KEYS[i]) == 1 then
        redis.call('HINCRBY', KEYS[i], 'stored', 0)
        redis.call('EXPIRE', KEYS[i], ARGV[6])
        counted_runs[i] = true
    end
end

local function now_ns() -- 8 bytes, big-endian; a Lua number does not hold ns exactly
    local time = redis.call('TIME')
    local us = tonumber(time[1]) * 1000000 + tonumber(time[2])
    local high, low = math.floor(us / 4294967296) * 1000, us % 4294967296 * 1000
    return struct.pack('>I4I4', high + math.floor(low / 4294967296), low % 4294967296)
end

local stamp = now_ns()

local function time_ms(entry_id) return tonumber(string.match(entry_id, '^%d+')) end

local function payload(numbers) -- MessagePack: a uint64 and a bin
    local rows = ARGV[8]
    if #numbers < count then
        local parts = {}
        for i, number in ipairs(numbers) do parts[i] = string.sub(rows, (number - 1) * size + 1, number * size) end
        rows = table.concat(parts)
    end
    return ARGV[7] .. '\207' .. stamp .. '\198' .. struct.pack('>I4', #rows) .. rows
end

local entries, events, times, runs = {}, {}, {}, {}
for i = 1, count do
    local at = FIRST + 3 * (i - 1)
    entries[i], events[i], runs[i] = ARGV[at], ARGV[at + 1], RUNS + tonumber(ARGV[at + 2])
    times[i] = time_ms(ARGV[at])
end

local before = redis.call('ZMSCORE', KEYS[4], unpack(events))
local gone, outcomes, kept, remembered = {}, {}, {}, {}

local function decide() -- what is stored
    local latest = {}
    outcomes, kept, remembered = {}, {}, {}
    for i = 1, count do
        local earlier = latest[events[i]] or (before[i] and tonumber(before[i]))
        if gone[i] then
            outcomes[i] = 0
        elseif earlier and math.abs(earlier - times[i]) <= window then
            outcomes[i] = 2
        else
            outcomes[i], latest[events[i]], kept[#kept + 1] = 1, times[i], i
            remembered[#remembered + 1], remembered[#remembered + 2] = times[i], events[i]
        end
    end
end

local added
local function add() added = #kept > 0 and redis.call('XADD', KEYS[2], '*', ARGV[2], payload(kept)) end

local function forget(number)
    if before[number] then
        redis.call('ZADD', KEYS[4], before[number], events[number])
    else
        redis.call('ZREM', KEYS[4], events[number])
    end
end

local function refused(reply)
    if type(reply) ~= 'table' or not reply.err then return false end
    if added then redis.call('XDEL', KEYS[2], added) end -- as if nothing had been stored
    return true
end

decide()
add()
local reply = added and redis.pcall('ZADD', KEYS[4], unpack(remembered))
if refused(reply) then return reply end
reply = redis.pcall('XACK', KEYS[1], ARGV[1], unpack(entries))
if refused(reply) then
    for _, number in ipairs(kept) do forget(number) end
    return reply
end
if reply < count then -- another bridge has dealt with some, and deleted them: store the others again
    for i = 1, count do gone[i] = #redis.call('XRANGE', KEYS[1], entries[i], entries[i]) == 0 end
    if added then redis.call('XDEL', KEYS[2], added) end
    for _, number in ipairs(kept) do forget(number) end
    decide()
    add()
    if added then redis.call('ZADD', KEYS[4], unpack(remembered)) end
end

local function copy(number) -- pcall: a copy must not hold up what is stored
    local entry = redis.call('XRANGE', KEYS[1], entries[number], entries[number])[1]
    local fields = entry and entry[2] or {}
    for i = 1, #fields, 2 do
        if fields[i] == ARGV[2] and #fields[i + 1] <= tonumber(ARGV[13]) then
            redis.pcall('XADD', KEYS[6], '*', ARGV[2], fields[i + 1])
        end
    end
end

local function drop_oldest() -- of the copies that no bridge has read: what is being answered stays
    local excess, after = redis.call('XLEN', KEYS[6]) - tonumber(ARGV[12]), '-'
    if excess <= 0 then return end
    for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[6])) do
        for i = 1, #flat, 2 do
            if flat[i] == 'last-delivered-id' then after = '(' .. flat[i + 1] end
        end
    end
    local unread = redis.call('XRANGE', KEYS[6], after, '+', 'COUNT', excess)
    for _, entry in ipairs(unread) do redis.call('XDEL', KEYS[6], entry[1]) end
    -- What waits for the challenger's first answer is no sign that it is too slow.
    if (tonumber(redis.pcall('GET', KEYS[8])) or 0) > 0 then redis.pcall('INCRBY', KEYS[7], #unread) end
    redis.call('EXPIRE', KEYS[7], ARGV[14])
end

local kind = ARGV[11] ~= '' and redis.call('TYPE', KEYS[6]).ok
if kind == 'none' or kind == 'stream' then
    for number in string.gmatch(ARGV[11], '%d+') do
        if outcomes[tonumber(number)] == 1 then copy(tonumber(number)) end
    end
    drop_oldest()
    redis.call('EXPIRE', KEYS[6], ARGV[14])
end
redis.call('XDEL', KEYS[1], unpack(entries))

redis.call('INCRBY', KEYS[5], #kept)
local counts = {}
for i = 1, count do
    local name = outcomes[i] == 1 and 'stored' or outcomes[i] == 2 and 'repeated'
    if name and counted_runs[runs[i]] then
        counts[runs[i]] = counts[runs[i]] or {}
        counts[runs[i]][name] = (counts[runs[i]][name] or 0) + 1
    end
end
for run, names in pairs(counts) do
    for name, number in pairs(names) do redis.call('HINCRBY', KEYS[run], name, number) end
end
local shown = tonumber(ARGV[10])
if ARGV[9] ~= '' and outcomes[shown] == 1 then -- pcall: what is shown must not hold up what is stored
    redis.pcall('XADD', KEYS[3], 'MAXLEN', '~', ARGV[5], '*', ARGV[2], ARGV[9], 'result', payload({ shown }))
end
-- An entry that is still to come is no older than the oldest in the stream, or than the newest ever written.
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local from = oldest and time_ms(oldest[1]) or times[1]
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', '(' .. string.format('%.0f', from - window))
redis.call('ZREMRANGEBYRANK', KEYS[4], 0, -most - 1)
return outcomes
