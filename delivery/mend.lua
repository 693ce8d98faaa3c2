-- Puts registrations back where they are looked at: those with events into due, those that are unwell into judge.
-- KEYS due judge, then st q of each · ARGV their names
-- Returns how many had lost their place. Repeating it changes nothing.
redis.call('ZREM', KEYS[1], '') -- a removal first: a full Redis lets the rest through
local now, n = clock(), 0
for i = 1, #ARGV do
  local st, m = KEYS[2 * i + 1], ARGV[i]
  local v = redis.call('HMGET', st, 'lo', 'le', 's', 'off')
  if redis.call('XLEN', KEYS[2 * i + 2]) > 0 and not redis.call('ZSCORE', KEYS[1], m) then
    local held = (v[1] or '') ~= '' and tonumber(v[2]) or 0 -- whoever holds it works on it until then
    redis.call('ZADD', KEYS[1], num(math.max(now, held)), m)
    n = n + 1
  end
  if (v[3] == 'DOWN' or v[3] == 'DEGRADED') and (v[4] or '') == '' and not redis.call('ZSCORE', KEYS[2], m) then
    redis.call('ZADD', KEYS[2], num(now), m)
    n = n + 1
  end
end
return n
