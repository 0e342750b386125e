-- Move an entry to the dead letters.
-- KEYS: events, rejected
-- ARGV: group, rejected entries to keep, entry id, field, payload, reason, detail, tries
-- Returns 1 if it was rejected now, 0 if the entry was not pending.
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[3]) == 0 then return 0 end
redis.call('XDEL', KEYS[1], ARGV[3])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', ARGV[4], ARGV[5],
    'reason', ARGV[6], 'detail', ARGV[7], 'tries', ARGV[8], 'entry', ARGV[3])
return 1
