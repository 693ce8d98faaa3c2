-- Moves one registration's window on to now and says when to look again.
-- KEYS st win judge · ARGV span member
-- Returns now, standing, counts.
-- A crash right after it loses nothing: the counts are facts, and the next look repeats the judgement.
redis.call('ZREM', KEYS[3], '') -- a removal first: a full Redis lets the rest through
local now, span = clock(), tonumber(ARGV[1])
local v = standing(KEYS[1])
local dbg = tonumber(v[10]) or 0
if dbg > 0 and now >= dbg then -- debugging has run out: the window starts empty
  redis.call('DEL', KEYS[2])
  redis.call('HDEL', KEYS[1], 'dbg')
  redis.call('HSET', KEYS[1], 'v', '0')
  v[10], v[5] = '', '0'
end
local w = window_open(KEYS[2], now, span)
window_close(w)
local at = judge_at(w, v)
if at > 0 and v[11] == '' then
  redis.call('ZADD', KEYS[3], num(math.max(at, now + 1)), ARGV[2])
else
  redis.call('ZREM', KEYS[3], ARGV[2])
end
return {num(now), v, window_counts(w)}
