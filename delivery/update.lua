-- Stores what was done about an outbox entry.
-- KEYS zset outd · ARGV id json next keep   (next: when it is due again, in ms; 0: it is done. keep: 1 to leave it for the lists)
-- Returns 0 for an entry that is not due any more: another replica, which took it over, has ended it.
redis.call('ZREM', KEYS[1], '') -- a removal first: a full Redis lets the rest through
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
if ARGV[3] ~= '0' then
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
if ARGV[3] == '0' and ARGV[4] == '0' then
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
return 1
