-- Leases outbox entries that are due: notices first, so that no mail waits behind a mass of handoffs.
-- KEYS notices out outd · ARGV n lease
-- Returns now, then id and JSON of each. An entry whose taker died is due again when its lease ends.
redis.call('ZREM', KEYS[1], '') -- a removal first: a full Redis lets the rest through
local now = clock()
local reply, left = {num(now)}, tonumber(ARGV[1])
for i = 1, 2 do
  local ids = left > 0 and redis.call('ZRANGEBYSCORE', KEYS[i], '-inf', num(now), 'LIMIT', 0, left) or {}
  for _, id in ipairs(ids) do
    local json = redis.call('HGET', KEYS[3], id)
    if json then
      redis.call('ZADD', KEYS[i], num(now + tonumber(ARGV[2])), id)
      reply[#reply + 1] = id
      reply[#reply + 1] = json
      left = left - 1
    else
      redis.call('ZREM', KEYS[i], id) -- nothing behind it
    end
  end
end
return reply
