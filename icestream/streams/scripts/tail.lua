-- Read entries, without a group, until there are as many entries, or bytes, as wanted.
-- KEYS: the stream
-- ARGV: id after which they are read, most entries, bytes after which no further entry is read, bytes of a value that are returned,
--       XRANGE, or XREVRANGE for the latest entries first
-- Returns entry id, and names and values (cut), for each entry.
local found, bytes, after, most = {}, 0, ARGV[1], tonumber(ARGV[4])
while #found < tonumber(ARGV[2]) and bytes < tonumber(ARGV[3]) do
    local edge = ARGV[5] == 'XRANGE' and '+' or '-'
    local entry = redis.call(ARGV[5], KEYS[1], '(' .. after, edge, 'COUNT', 1)[1]
    if not entry then break end
    local fields = {}
    for i = 1, math.min(#entry[2], 4), 2 do -- none of ours has more than two
        fields[i], fields[i + 1] = string.sub(entry[2][i], 1, most), string.sub(entry[2][i + 1], 1, most)
        bytes = bytes + #fields[i] + #fields[i + 1]
    end
    found[#found + 1], after = {entry[1], fields}, entry[1]
end
return found
