-- Store results: add the result of each entry unless its event already has one, then acknowledge and delete the entry.
-- The entry goes last: if Redis refuses a command (permissions, a key of another type), it stays pending and nothing is lost.
-- KEYS: events, directions, shown, done:current, done:previous, then the hash of each run
-- ARGV: group, field, minimum seconds that a completed event is remembered, shown entries to keep, seconds to keep the hash
--       of a run; then for each result entry id, "run_id:event_id", result, event to show ('' for none), index of its run
-- Returns for each result: 0 the entry was not pending, 1 stored, 2 duplicate.
redis.call('XACK', KEYS[1], ARGV[1], '0-0') -- no entry; but a script that has begun to write may go on in a full Redis
local remembered = tonumber(ARGV[3])
if redis.call('TTL', KEYS[4]) <= remembered and redis.call('EXISTS', KEYS[4]) == 1 then
    redis.call('RENAME', KEYS[4], KEYS[5])
end
local outcomes, stored = {}, {}
for i = 6, #ARGV, 5 do
    local outcome = 0
    if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1) == 1 then
        outcome = 2
        local event = ARGV[i + 1]
        if redis.call('SISMEMBER', KEYS[5], event) == 0 and redis.call('SISMEMBER', KEYS[4], event) == 0 then
            redis.call('XADD', KEYS[2], '*', ARGV[2], ARGV[i + 2])
            redis.call('SADD', KEYS[4], event)
            if ARGV[i + 3] ~= '' then
                redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], '*', ARGV[2], ARGV[i + 3], 'result', ARGV[i + 2])
            end
            outcome = 1
            local index = 5 + tonumber(ARGV[i + 4])
            stored[index] = (stored[index] or 0) + 1
        end
        redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
        redis.call('XDEL', KEYS[1], ARGV[i])
    end
    outcomes[#outcomes + 1] = outcome
end
if redis.call('TTL', KEYS[4]) == -1 then redis.call('EXPIRE', KEYS[4], 2 * remembered) end
for index, count in pairs(stored) do
    redis.call('HINCRBY', KEYS[index], 'stored', count)
    redis.call('EXPIRE', KEYS[index], ARGV[5])
end
return outcomes
