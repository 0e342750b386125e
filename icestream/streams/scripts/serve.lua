-- Change which model is served, unless somebody has changed it meanwhile.
-- KEYS: the hash of the serving state
-- ARGV: the epoch that is replaced (0 for the first, or for one that is no number), the new state
-- Returns the new epoch; nothing if the state is of another epoch.
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0') or 0
if epoch ~= tonumber(ARGV[1]) then return nil end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1] + 1, 'state', ARGV[2])
return ARGV[1] + 1
