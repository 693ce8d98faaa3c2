-- Says whether what the store must hold is there, without changing anything.
-- KEYS made led due judge notices out outd, for each shard
-- Returns for each shard: who made it, or '', then how many events are queued, registrations unwell, members of due and of judge, entries of the
-- outbox that stand in its sets, and entries that should.
local reply = {}
for i = 1, #KEYS, 7 do
  local led = redis.call('HMGET', KEYS[i + 1], 'qn', 's:DEGRADED', 's:DOWN')
  reply[#reply + 1] = {redis.call('GET', KEYS[i]) or '', tonumber(led[1]) or 0, (tonumber(led[2]) or 0) + (tonumber(led[3]) or 0),
    redis.call('ZCARD', KEYS[i + 2]), redis.call('ZCARD', KEYS[i + 3]), redis.call('ZCARD', KEYS[i + 4]) + redis.call('ZCARD', KEYS[i + 5]),
    tonumber(redis.call('HGET', KEYS[i + 6], '#')) or 0}
end
return reply
