-- Add events, their truths and the run's position. Events that an earlier call added, whose reply was lost, are skipped.
-- KEYS: events, truth, the run's hash, then those of the runs that later passes over its source are
-- ARGV: writer of the run (begin.lua), number of the first event in its run, field, run_id and event_id of the last event, seconds
--       to keep the hash, 1 if the beginning of the run is on Redis's disk, truths ('' if none is known); then the events
-- Returns the backlog; -1 if a later writer has begun the run; -2 if the stream ends before the first event, because Redis came
-- back without its last writes. Then nothing was added. If the hash is gone although it was on the disk, all keys were deleted: it
-- notes how many events were written before.
local FIRST = 9
local found = redis.call('HMGET', KEYS[3], 'writer', 'emitted')
if found[1] and found[1] > ARGV[1] then return -1 end
local number = tonumber(ARGV[2])
if not found[2] and ARGV[7] == '0' and number > 0 then return -2 end
local emitted = found[2] and tonumber(found[2]) or number
if emitted < number then return -2 end
-- What is refused (a full Redis, permissions) is refused here, before an event is added that would be added again.
redis.call('HSET', KEYS[3], 'writer', ARGV[1])
for i = 4, #KEYS do -- so that their results are counted (complete.lua)
    redis.call('HINCRBY', KEYS[i], 'stored', 0)
    redis.call('EXPIRE', KEYS[i], ARGV[6])
end
local behind = number + #ARGV - FIRST + 1 -- number of the event after the last
if behind > emitted then
    if ARGV[8] ~= '' then redis.call('XADD', KEYS[2], '*', ARGV[3], ARGV[8]) end
    for i = FIRST + emitted - number, #ARGV do redis.call('XADD', KEYS[1], '*', ARGV[3], ARGV[i]) end
    if not found[2] and number > 0 then redis.call('HSET', KEYS[3], 'forgotten', ARGV[2]) end
    redis.call('HSET', KEYS[3], 'emitted', behind, 'run_id', ARGV[4], 'event_id', ARGV[5])
    redis.call('EXPIRE', KEYS[3], ARGV[6])
end
return redis.call('XLEN', KEYS[1])
