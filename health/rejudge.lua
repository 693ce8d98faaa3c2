-- Moves one registration's window on to now and says when to look again.
-- KEYS st win judge · ARGV span member min
-- Returns now, standing, counts.
-- A crash right after it loses nothing: the counts are facts, and while they may ask for a transition that is not made yet, the next look
-- comes within a second and repeats the judgement.
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
local ok, w = pcall(window_open, KEYS[2], now, span)
if not ok then w = window_anew(KEYS[2], now, span) end
window_close(w)
local at = judge_at(w, v)
if judge_owed(w, v, now, tonumber(ARGV[3])) and (at == 0 or at > now + 1000) then at = now + 1000 end
if at > 0 and v[11] == '' then
  redis.call('ZADD', KEYS[3], num(math.max(at, now + 1)), ARGV[2])
else
  redis.call('ZREM', KEYS[3], ARGV[2])
end
return {num(now), v, window_counts(w)}
