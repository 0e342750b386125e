-- Add events, their truths and the run's position. Events that an earlier call added, whose reply was lost, are skipped.
-- KEYS: events, truth, the run's hash
-- ARGV: number of the first event in its run, field, run_id and event_id of the last event, seconds to keep the hash;
--       then event and truth ('' if unknown) of each
-- Returns the backlog.
local emitted = tonumber(redis.call('HGET', KEYS[3], 'emitted') or '0')
local number = tonumber(ARGV[1])
for i = 6, #ARGV, 2 do
    if number >= emitted then
        redis.call('XADD', KEYS[1], '*', ARGV[2], ARGV[i])
        if ARGV[i + 1] ~= '' then redis.call('XADD', KEYS[2], '*', ARGV[2], ARGV[i + 1]) end
    end
    number = number + 1
end
if number > emitted then
    redis.call('HSET', KEYS[3], 'emitted', number, 'run_id', ARGV[3], 'event_id', ARGV[4])
    redis.call('EXPIRE', KEYS[3], ARGV[5])
end
return redis.call('XLEN', KEYS[1])
