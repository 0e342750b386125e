-- Give keys of an earlier version their new names, unless those exist.
-- KEYS: old and new name of each
for i = 1, #KEYS, 2 do
    if redis.call('EXISTS', KEYS[i]) == 1 and redis.call('EXISTS', KEYS[i + 1]) == 0 then
        redis.call('RENAME', KEYS[i], KEYS[i + 1])
    end
end
