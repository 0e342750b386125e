-- Become the writer of a run. Writers are numbered, so that the latest is known even where Redis has lost its last writes.
-- KEYS: the run's hash
-- ARGV: name of the writer, seconds to keep the hash, 1 to do nothing if the run has a writer; then names and values of its description
-- Returns the writer: its number in twelve digits and its name. Nothing if the run has a writer and that was not wanted.
local before = redis.call('HGET', KEYS[1], 'writer')
if before and ARGV[3] == '1' then return nil end
local number = tonumber(before and string.match(before, '^(%d+) ') or 0) + 1
local writer = string.format('%012d %s', number, ARGV[1])
redis.call('HSET', KEYS[1], 'writer', writer, unpack(ARGV, 4))
redis.call('HSETNX', KEYS[1], 'emitted', 0)
redis.call('EXPIRE', KEYS[1], ARGV[2])
return writer
