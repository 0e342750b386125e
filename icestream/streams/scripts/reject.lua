-- Move an entry to the dead letters; it is acknowledged after that, as in complete.lua. The oldest dead letters are deleted while
-- they are more, or have more bytes, than allowed.
-- KEYS: events, rejected, counter of the bytes of the payloads in it, the hash of its run if it has one
-- ARGV: group, entry id, field, rejected entries to keep, bytes to keep, bytes to keep of one payload, reason, detail, tries,
--       run_id ('' if it has none)
-- Returns 1 if it was rejected now, 0 if the entry was not pending.
redis.call('XACK', KEYS[1], ARGV[1], '0-0')
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1) == 0 then return 0 end

local function payload_of(entry)
    for i = 1, #entry[2], 2 do
        if entry[2][i] == ARGV[3] then return entry[2][i + 1] end
    end
    return ''
end

local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
local payload = entry and payload_of(entry) or ''
local kept = string.sub(payload, 1, tonumber(ARGV[6]))
if redis.call('XLEN', KEYS[2]) == 0 then redis.call('DEL', KEYS[3]) end
local counted = KEYS[4] and redis.call('EXISTS', KEYS[4]) == 1
if counted then redis.call('HINCRBY', KEYS[4], 'rejected', 0) end -- refused here, if it is, before anything is added
local bytes = redis.call('INCRBY', KEYS[3], #kept)
local added = redis.pcall('XADD', KEYS[2], '*', ARGV[3], kept, 'bytes', #payload, 'sha1', redis.sha1hex(payload),
    'reason', ARGV[7], 'detail', ARGV[8], 'tries', ARGV[9], 'entry', ARGV[2], 'run', ARGV[10])
if type(added) == 'table' and added.err then -- as if nothing had been done
    redis.call('DECRBY', KEYS[3], #kept)
    return added
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
if counted then redis.call('HINCRBY', KEYS[4], 'rejected', 1) end
while bytes > tonumber(ARGV[5]) or redis.call('XLEN', KEYS[2]) > tonumber(ARGV[4]) do
    local oldest = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
    if not oldest then break end
    bytes = redis.call('DECRBY', KEYS[3], #payload_of(oldest))
    redis.call('XDEL', KEYS[2], oldest[1])
end
return 1
