-- Read entries of a group until there are as many entries, or bytes, as wanted.
-- KEYS: the stream
-- ARGV: group, consumer, most entries, bytes after which no further entry is read, field, bytes of a payload that are returned,
--       '>' for new entries, or the id after which those are read that the consumer has not acknowledged
-- Returns entry id, payload (cut) and its length, for each entry.
local found, bytes, start = {}, 0, ARGV[7]
while #found < tonumber(ARGV[3]) and bytes < tonumber(ARGV[4]) do
    local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', 1, 'STREAMS', KEYS[1], start)
    if not reply or #reply[1][2] == 0 then break end
    local entry, payload = reply[1][2][1], ''
    local fields = entry[2] or {} -- none if the entry was deleted
    for i = 1, #fields, 2 do
        if fields[i] == ARGV[5] then payload = fields[i + 1] end
    end
    found[#found + 1] = {entry[1], string.sub(payload, 1, tonumber(ARGV[6])), #payload}
    bytes = bytes + math.min(#payload, tonumber(ARGV[6]))
    if start ~= '>' then start = entry[1] end
end
return found
