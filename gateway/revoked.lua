-- What was revoked after a number, and forgets what has ended.
-- KEYS revoked order ends · ARGV number n
-- Returns now(ms), the last number there is, the last number told, names and their "from until" in turn, the name of the list.
local now = clock()
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[3], name)
  redis.call('ZREM', KEYS[2], name)
  redis.call('HDEL', KEYS[1], name)
end
local last = redis.call('HGET', KEYS[1], '#') or '0'
local told, list = ARGV[1], {}
local rows = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[2])
for i = 1, #rows, 2 do
  list[#list + 1] = rows[i]
  list[#list + 1] = redis.call('HGET', KEYS[1], rows[i])
  told = num(tonumber(rows[i + 1]))
end
return {num(now), last, told, list, redis.call('HGET', KEYS[1], '@') or ''}
