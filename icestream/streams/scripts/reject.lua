-- Move an entry to the dead letters; it is acknowledged last, as in complete.lua.
-- KEYS: events, rejected
-- ARGV: group, rejected entries to keep, entry id, field, payload, reason, detail, tries
-- Returns 1 if it was rejected now, 0 if the entry was not pending.
redis.call('XACK', KEYS[1], ARGV[1], '0-0')
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1) == 0 then return 0 end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', ARGV[4], ARGV[5],
    'reason', ARGV[6], 'detail', ARGV[7], 'tries', ARGV[8], 'entry', ARGV[3])
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
redis.call('XDEL', KEYS[1], ARGV[3])
return 1
