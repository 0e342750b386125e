-- Take over an entry that its consumer no longer renews.
-- KEYS: events
-- ARGV: group, consumer, ms without renewal, entry id, field, bytes of the payload that are returned
-- Returns payload (cut), its length and the number of deliveries; nothing if another was faster, or the entry was deleted.
local claimed = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4])[1]
if not claimed then return nil end
local payload = ''
for i = 1, #claimed[2], 2 do
    if claimed[2][i] == ARGV[5] then payload = claimed[2][i + 1] end
end
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[4], ARGV[4], 1)[1]
return {string.sub(payload, 1, tonumber(ARGV[6])), #payload, pending[4]}
