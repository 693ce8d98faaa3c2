-- Makes one transition, if the facts that it was judged on still hold.
-- KEYS st win judge due notices outd told out led
-- ARGV span member · number a0 f0 fmin min (the facts) · state verified pausedUntil incident downSince stillDown ramp at notices
--   · entries, each: id owed listed json (owed: somebody is to act on it; else it has had its end, and is listed only)
-- Returns 1, or 0 when a fact has changed: judge again.
-- Commit point: a crash before it leaves the judgement to the timer; after it the outbox owes the notice.
redis.call('ZREM', KEYS[3], '') -- a removal first: a full Redis lets the rest through
local now, span = clock(), tonumber(ARGV[1])
local w = window_open(KEYS[2], now, span)
local f, min = window_failed(w), tonumber(ARGV[7])
local v = standing(KEYS[1])
local function yes(b) return b and '1' or '0' end
local same = (v[4] == '' and '0' or v[4]) == ARGV[3] and yes(w.n[1] == 0) == ARGV[4] and yes(f == 0) == ARGV[5] and yes(f >= min) == ARGV[6]
if not same or v[11] ~= '' then return 0 end
local at, incident = ARGV[15], ARGV[11]
if (v[1] == '' and 'HEALTHY' or v[1]) ~= ARGV[8] then redis.call('HSET', KEYS[1], 'si', at) end
note_state(KEYS[9], v[1], ARGV[8])
redis.call('HSET', KEYS[1], 's', ARGV[8], 'v', ARGV[9], 'pu', ARGV[10], 'in', incident, 'ds', ARGV[12], 'sd', ARGV[13],
  'n', num(tonumber(ARGV[3]) + 1), 'nt', ARGV[16])
if ARGV[14] ~= '' then redis.call('HSET', KEYS[1], 'rw', ARGV[14]) end
redis.call('HDEL', KEYS[1], 'tf')
if incident == '0' then redis.call('HDEL', KEYS[1], 'ho', 'ud', 'f5') end
if v[1] == 'DOWN' and ARGV[8] ~= 'DOWN' and (tonumber(v[21]) or 0) > 0 and (redis.call('HGET', KEYS[1], 'lo') or '') == '' then
  redis.call('ZADD', KEYS[4], num(now), ARGV[2]) -- the pause is over: what was held need not wait for its end
end
window_close(w)
v[1], v[3] = ARGV[8], ARGV[10]
local look = judge_at(w, v)
if look > 0 then redis.call('ZADD', KEYS[3], num(math.max(look, now + 1)), ARGV[2]) else redis.call('ZREM', KEYS[3], ARGV[2]) end
for i = 17, #ARGV, 4 do
  local id, listed, json = ARGV[i], ARGV[i + 2] == '1', ARGV[i + 3] -- a notice is listed, a job is not
  if ARGV[i + 1] == '1' then
    outbox_put(listed and KEYS[5] or KEYS[8], KEYS[6], listed and KEYS[7], id, tonumber(at), json)
  else
    redis.call('HSET', KEYS[6], id, json)
    outbox_list(KEYS[5], KEYS[6], KEYS[7], id, tonumber(at))
  end
end
return 1
