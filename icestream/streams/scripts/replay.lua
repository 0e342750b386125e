-- Put a dead letter back into the stream of events.
-- KEYS: events, rejected, counter of the bytes of the payloads in it, the hash of its run if it has one
-- ARGV: id of the dead letter, field
-- Returns 1 if it was put back, 0 if there is no such dead letter, -1 if only a part of its payload was kept.
local found = redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1])[1]
if not found then return 0 end
local fields = {}
for i = 1, #found[2], 2 do fields[found[2][i]] = found[2][i + 1] end
local payload = fields[ARGV[2]] or ''
if tonumber(fields['bytes'] or #payload) > #payload then return -1 end
local counted = KEYS[4] and redis.call('EXISTS', KEYS[4]) == 1
if counted then redis.call('HINCRBY', KEYS[4], 'rejected', 0) end -- refused here, if it is, before anything is added
redis.call('XADD', KEYS[1], '*', ARGV[2], payload)
if counted then redis.call('HINCRBY', KEYS[4], 'rejected', -1) end
redis.call('DECRBY', KEYS[3], #payload)
redis.call('XDEL', KEYS[2], ARGV[1])
return 1
