-- Leases outbox entries that are due.
-- KEYS out outd · ARGV n lease
-- Returns now, then id and JSON of each. An entry whose taker died is due again when its lease ends.
local now = clock()
local reply = {num(now)}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', num(now), 'LIMIT', 0, ARGV[1])) do
  local json = redis.call('HGET', KEYS[2], id)
  if json then
    redis.call('ZADD', KEYS[1], num(now + tonumber(ARGV[2])), id)
    reply[#reply + 1] = id
    reply[#reply + 1] = json
  else
    redis.call('ZREM', KEYS[1], id) -- nothing behind it
  end
end
return reply
