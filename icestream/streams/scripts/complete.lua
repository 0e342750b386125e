-- Store results: add the result of each entry unless its event already has one, then acknowledge and delete the entry.
-- The entry goes last: if Redis refuses a command (permissions, a key of another type), it stays pending and nothing is lost.
-- KEYS: events, directions, shown, done, then the hash of each run
-- ARGV: group, field, ms within which two entries of one event are one, most events to remember, shown entries to keep,
--       seconds to keep the hash of a run; then for each result entry id, "run_id:event_id", result, event to show ('' for
--       none), index of its run
-- The last 8 bytes of a result are its stored_ns, which is set here to the server's clock.
-- Returns for each result: 0 the entry was not pending, 1 stored, 2 duplicate.
redis.call('XACK', KEYS[1], ARGV[1], '0-0') -- no entry; but a script that has begun to write may go on in a full Redis
local window, most = tonumber(ARGV[3]), tonumber(ARGV[4])
local counted_runs = {} -- those that were begun: anybody may write events of any run
for i = 5, #KEYS do
    if redis.call('EXISTS', KEYS[i]) == 1 then
        redis.call('HINCRBY', KEYS[i], 'stored', 0) -- what is refused is refused here, before a result is stored
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

local function time_ms(entry_id) return tonumber(string.match(entry_id, '^%d+')) end

local outcomes, counted, stamp = {}, { stored = {}, repeated = {} }, now_ns()

local function store(entry_id, event, result, shown) -- returns the outcome
    if #redis.call('XPENDING', KEYS[1], ARGV[1], entry_id, entry_id, 1) == 0 then return 0 end
    local outcome, when = 2, time_ms(entry_id)
    local before = redis.call('ZSCORE', KEYS[4], event)
    if not before or math.abs(tonumber(before) - when) > window then
        outcome, result = 1, string.sub(result, 1, -9) .. stamp
        local stored = redis.call('XADD', KEYS[2], '*', ARGV[2], result)
        local remembered = redis.pcall('ZADD', KEYS[4], when, event)
        if type(remembered) == 'table' and remembered.err then -- as if nothing had been stored
            redis.call('XDEL', KEYS[2], stored)
            error(remembered)
        end
        if shown ~= '' then -- pcall: what is shown must not hold up what is stored
            redis.pcall('XADD', KEYS[3], 'MAXLEN', '~', ARGV[5], '*', ARGV[2], shown, 'result', result)
        end
    end
    redis.call('XACK', KEYS[1], ARGV[1], entry_id)
    redis.call('XDEL', KEYS[1], entry_id)
    return outcome
end

local function store_all()
    for i = 7, #ARGV, 5 do
        local outcome = store(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
        outcomes[#outcomes + 1] = outcome
        if outcome > 0 then
            local counts, index = counted[outcome == 1 and 'stored' or 'repeated'], 4 + tonumber(ARGV[i + 4])
            counts[index] = (counts[index] or 0) + 1
        end
    end
end

local whole, failure = pcall(store_all)
for name, counts in pairs(counted) do -- of those before a failure, too: they are stored
    for index, count in pairs(counts) do
        if counted_runs[index] then redis.call('HINCRBY', KEYS[index], name, count) end
    end
end
if not whole then return type(failure) == 'table' and failure or redis.error_reply(tostring(failure)) end
-- An entry that is still to come is no older than the oldest in the stream, or than the newest ever written.
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local from = oldest and time_ms(oldest[1]) or time_ms(ARGV[7] or '0')
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', '(' .. string.format('%.0f', from - window))
redis.call('ZREMRANGEBYRANK', KEYS[4], 0, -most - 1)
return outcomes
