-- What needs attention in a shard, without changing anything.
-- KEYS due judge notices out · ARGV n
-- Returns now, members due, members to judge, number of outbox entries due.
local now = num(clock())
return {now, redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1]),
  redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, ARGV[1]), redis.call('ZCOUNT', KEYS[3], '-inf', now) + redis.call('ZCOUNT', KEYS[4], '-inf', now)}
