-- Read new entries of a group until there are as many entries, or bytes, as wanted.
-- KEYS: events
-- ARGV: group, consumer, most entries, bytes after which no further entry is read, field, bytes of a payload that are returned
-- Returns entry id, payload (cut) and its length, for each entry.
local found, bytes = {}, 0
while #found < tonumber(ARGV[3]) and bytes < tonumber(ARGV[4]) do
    local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[1], '>')
    if not reply then break end
    local entry, payload = reply[1][2][1], ''
    for i = 1, #entry[2], 2 do
        if entry[2][i] == ARGV[5] then payload = entry[2][i + 1] end
    end
    found[#found + 1] = {entry[1], string.sub(payload, 1, tonumber(ARGV[6])), #payload}
    bytes = bytes + math.min(#payload, tonumber(ARGV[6]))
end
return found
