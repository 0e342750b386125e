-- Store results: acknowledge and delete each entry, and add its result unless the event already has one.
-- KEYS: events, directions, shown, done:current, done:previous, then the hash of each run
-- ARGV: group, field, minimum seconds that a completed event is remembered, shown entries to keep, seconds to keep the hash
--       of a run; then for each result entry id, "run_id:event_id", result, event to show ('' for none), index of its run
-- Returns for each result: 0 the entry was not pending, 1 stored, 2 duplicate.
local remembered = tonumber(ARGV[3])
if redis.call('TTL', KEYS[4]) <= remembered and redis.call('EXISTS', KEYS[4]) == 1 then
    redis.call('RENAME', KEYS[4], KEYS[5])
end
local outcomes, stored = {}, {}
for i = 6, #ARGV, 5 do
    local outcome = 0
    if redis.call('XACK', KEYS[1], ARGV[1], ARGV[i]) == 1 then
        redis.call('XDEL', KEYS[1], ARGV[i])
        outcome = 2
        if redis.call('SISMEMBER', KEYS[5], ARGV[i + 1]) == 0 and redis.call('SADD', KEYS[4], ARGV[i + 1]) == 1 then
            redis.call('XADD', KEYS[2], '*', ARGV[2], ARGV[i + 2])
            if ARGV[i + 3] ~= '' then
                redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[4], '*', ARGV[2], ARGV[i + 3], 'result', ARGV[i + 2])
            end
            outcome = 1
            local index = 5 + tonumber(ARGV[i + 4])
            stored[index] = (stored[index] or 0) + 1
        end
    end
    outcomes[#outcomes + 1] = outcome
end
if redis.call('TTL', KEYS[4]) == -1 then redis.call('EXPIRE', KEYS[4], 2 * remembered) end
for index, count in pairs(stored) do
    redis.call('HINCRBY', KEYS[index], 'stored', count)
    redis.call('EXPIRE', KEYS[index], ARGV[5])
end
return outcomes
