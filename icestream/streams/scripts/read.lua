-- Read entries of a group until there are as many entries, or bytes, as wanted.
-- KEYS: the stream
-- ARGV: group, consumer, most entries, bytes after which no further entry is read, field, bytes of a payload that are returned,
--       '>' for new entries, or the id after which those are read that the consumer has not acknowledged
-- Returns entry id, payload (cut) and its length, for each entry.
local AT_ONCE = 16 -- at most; as many as fit, however large they are
local most, budget, cut = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[6])
local found, bytes, start = {}, 0, ARGV[7]
while #found < most and bytes < budget do
    local step = math.max(1, math.min(AT_ONCE, math.floor((budget - bytes) / cut)))
    local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', math.min(step, most - #found), 'STREAMS', KEYS[1], start)
    if not reply or #reply[1][2] == 0 then break end
    for _, entry in ipairs(reply[1][2]) do
        local payload, fields = '', entry[2] or {} -- no fields if the entry was deleted
        for i = 1, #fields, 2 do
            if fields[i] == ARGV[5] then payload = fields[i + 1] end
        end
        found[#found + 1] = {entry[1], string.sub(payload, 1, cut), #payload}
        bytes = bytes + math.min(#payload, cut)
        if start ~= '>' then start = entry[1] end
    end
end
return found
