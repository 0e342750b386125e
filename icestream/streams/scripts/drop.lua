-- Delete a dead letter.
-- KEYS: rejected, counter of the bytes of the payloads in it
-- ARGV: id of the dead letter, field
-- Returns 1 if it was deleted, 0 if there is no such dead letter.
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then return 0 end
for i = 1, #found[2], 2 do
    if found[2][i] == ARGV[2] then redis.call('DECRBY', KEYS[2], #found[2][i + 1]) end
end
return redis.call('XDEL', KEYS[1], ARGV[1])
