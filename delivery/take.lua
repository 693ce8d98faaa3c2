-- Leases outbox entries that are due: notices first, so that no mail waits behind a mass of handoffs, but half of the places are for
-- the others, so that no handoff waits behind a mass of mails.
-- KEYS notices out outd · ARGV n lease
-- Returns now, then id and JSON of each. An entry whose taker died is due again when its lease ends.
redis.call('ZREM', KEYS[1], '') -- a removal first: a full Redis lets the rest through
local now, n = clock(), tonumber(ARGV[1])
local due = {}
for i = 1, 2 do due[i] = redis.call('ZRANGEBYSCORE', KEYS[i], '-inf', num(now), 'LIMIT', 0, n) end
local share = {math.max(math.ceil(n / 2), n - #due[2])}
share[2] = n - math.min(share[1], #due[1])
local reply = {num(now)}
for i = 1, 2 do
  for k = 1, math.min(share[i], #due[i]) do
    local id = due[i][k]
    local json = redis.call('HGET', KEYS[3], id)
    if json then
      redis.call('ZADD', KEYS[i], num(now + tonumber(ARGV[2])), id)
      reply[#reply + 1] = id
      reply[#reply + 1] = json
    else
      redis.call('ZREM', KEYS[i], id) -- nothing behind it
      redis.call('HINCRBY', KEYS[3], '#', -1)
    end
  end
end
return reply
