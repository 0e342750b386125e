-- Add events, their truths and the run's position. Events that an earlier call added, whose reply was lost, are skipped.
-- KEYS: events, truth, the run's hash
-- ARGV: writer of the run, number of the first event in its run, field, run_id and event_id of the last event, seconds to keep
--       the hash; then event and truth ('' if unknown) of each
-- Returns the backlog; -1 if another writer has begun the run since; -2 if the stream ends before the first event, because Redis
-- came back without its last writes. Then nothing was added. If the hash is gone, it notes how many events were written before.
local found = redis.call('HMGET', KEYS[3], 'writer', 'emitted')
if found[1] and found[1] ~= ARGV[1] then return -1 end
local number = tonumber(ARGV[2])
local emitted = found[2] and tonumber(found[2]) or number -- all keys were deleted: go on behind what was written
if emitted < number then return -2 end
-- What is refused (a full Redis, permissions) is refused here, before an event is added that would be added again.
redis.call('HSET', KEYS[3], 'writer', ARGV[1])
for i = 7, #ARGV, 2 do
    if number >= emitted then
        if ARGV[i + 1] ~= '' then redis.call('XADD', KEYS[2], '*', ARGV[3], ARGV[i + 1]) end
        redis.call('XADD', KEYS[1], '*', ARGV[3], ARGV[i])
    end
    number = number + 1
end
if number > emitted then
    if not found[2] and tonumber(ARGV[2]) > 0 then redis.call('HSET', KEYS[3], 'forgotten', ARGV[2]) end
    redis.call('HSET', KEYS[3], 'emitted', number, 'run_id', ARGV[4], 'event_id', ARGV[5])
    redis.call('EXPIRE', KEYS[3], ARGV[6])
end
return redis.call('XLEN', KEYS[1])
