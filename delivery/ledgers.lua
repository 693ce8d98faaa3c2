-- Reads the ledgers of shards in one step, without writing. It is no transaction, because a full Redis refuses every command inside one.
-- KEYS led, of each shard
-- Returns the fields of each.
local all = {}
for i = 1, #KEYS do all[i] = redis.call('HGETALL', KEYS[i]) end
return all
