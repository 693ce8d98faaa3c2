-- Stores what was done about an outbox entry.
-- KEYS out outd · ARGV id json next keep   (next: when it is due again, in ms; 0: it is done. keep: 1 to leave it for the lists)
if ARGV[3] == '0' then redis.call('ZREM', KEYS[1], ARGV[1]) end
if ARGV[3] == '0' and ARGV[4] == '0' then
  redis.call('HDEL', KEYS[2], ARGV[1])
  return 1
end
if ARGV[3] ~= '0' then redis.call('ZADD', KEYS[1], 'XX', ARGV[3], ARGV[1]) end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return 1
