-- Change which models are served, unless somebody has changed it meanwhile, and delete what there is of a comparison between those
-- that were served before.
-- KEYS: the hash of the serving state, then what is deleted
-- ARGV: the epoch that is replaced (0 for the first, or for one that is no number), the new state
-- Returns the new epoch; nothing if the state is of another epoch.
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or '0') or 0
if epoch ~= tonumber(ARGV[1]) then return nil end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1] + 1, 'state', ARGV[2], 'since_s', redis.call('TIME')[1])
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
return ARGV[1] + 1
