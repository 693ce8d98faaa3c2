-- Stores what was done about an outbox entry.
-- KEYS zset outd told mail · ARGV id json next keep   (next: when it is due again, in ms; 0: it is done. keep: 1 to leave it for the lists)
-- mail: what the entry had to tell, if it is a mail: nobody needs it any more once it is done.
-- Returns 0 for an entry that is not due any more: another replica, which took it over, has ended it.
redis.call('ZREM', KEYS[1], '') -- a removal first: a full Redis lets the rest through
local id = ARGV[1]
if not redis.call('ZSCORE', KEYS[1], id) then return 0 end
if ARGV[3] ~= '0' then
  redis.call('ZADD', KEYS[1], ARGV[3], id)
  redis.call('HSET', KEYS[2], id, ARGV[2])
  return 1
end
redis.call('ZREM', KEYS[1], id)
redis.call('HINCRBY', KEYS[2], '#', -1)
redis.call('DEL', KEYS[4])
local rank = ARGV[4] == '1' and redis.call('ZRANK', KEYS[3], id)
if rank and rank >= redis.call('ZCARD', KEYS[3]) - LISTED then
  redis.call('HSET', KEYS[2], id, ARGV[2])
else -- so old that the list has no place for it
  redis.call('ZREM', KEYS[3], id)
  redis.call('HDEL', KEYS[2], id)
end
return 1
