-- Notes how mail to a contact fares.
-- KEYS notices contact · ARGV until why seconds   (until: further notices wait together until then, in ms; 0: a mail was taken)
-- What gathered while mail did not get through goes out as soon as one does.
redis.call('ZREM', KEYS[1], '') -- a removal first: a full Redis lets the rest through
local ends = tonumber(ARGV[1])
local c = redis.call('HMGET', KEYS[2], 'until', 'first', 'mid', 'mdue')
if ends > 0 then
  redis.call('HSET', KEYS[2], 'until', num(math.max(ends, tonumber(c[1]) or 0)), 'first', '')
  if ARGV[2] ~= '' then redis.call('HSET', KEYS[2], 'why', ARGV[2]) end
  redis.call('EXPIRE', KEYS[2], ARGV[3])
elseif c[2] == '' then
  redis.call('HDEL', KEYS[2], 'until', 'first', 'why')
  local due = c[3] and redis.call('ZSCORE', KEYS[1], c[3])
  if due and tonumber(due) == tonumber(c[4]) then
    local now = num(clock())
    redis.call('ZADD', KEYS[1], now, c[3])
    redis.call('HSET', KEYS[2], 'mdue', now)
  end
end
return 1
