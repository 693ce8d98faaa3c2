-- Puts pending entries of the outbox back where they are taken from, and counts anew how many there are.
-- KEYS notices out outd · ARGV ids
-- Returns how many had lost their place. Repeating it changes nothing.
redis.call('ZREM', KEYS[1], '') -- a removal first: a full Redis lets the rest through
local now, n = clock(), 0
for _, id in ipairs(ARGV) do
  local json = redis.call('HGET', KEYS[3], id)
  local ok, e = pcall(cjson.decode, json or '')
  if ok and type(e) == 'table' and e.state == 'pending' then
    local set = (e.kind == 'transition' or e.kind == 'mail') and KEYS[1] or KEYS[2]
    if not redis.call('ZSCORE', set, id) then
      redis.call('ZADD', set, num(math.max(now, tonumber(e.nextTry) or 0)), id)
      n = n + 1
    end
  end
end
redis.call('HSET', KEYS[3], '#', num(redis.call('ZCARD', KEYS[1]) + redis.call('ZCARD', KEYS[2])))
return n
