-- Writes one registration, or takes it out, if the entity is still at the version that the rules were checked against.
-- KEYS reg st win q due judge out outd hashes led · ARGV span version app json hold member digest · reset cut off incident dbg · job id and json, or '' · entity digest and name · ttl
-- Returns {1}, or {0} for another version.
-- Commit point: from here on accept and claim see the new version. A crash after it owes nothing: the job is in the outbox.
local now = clock()
local ver = redis.call('HGET', KEYS[1], 'ver') or '0'
if ver ~= ARGV[2] then return {0} end
local app, json, member = ARGV[3], ARGV[4], ARGV[6]
-- No number is given twice, even by a store that was emptied or has forgotten changes: replicas go by it in what they remember.
redis.call('HSET', KEYS[1], 'ver', num(math.max((tonumber(ver) or 0) + 1, now)))
local was = redis.call('HEXISTS', KEYS[1], 'a:' .. app)
if was == 1 and json == '' then redis.call('HINCRBY', KEYS[9], '#', -1) end
if was == 0 and json ~= '' then redis.call('HINCRBY', KEYS[9], '#', 1) end
if json == '' then
  redis.call('HDEL', KEYS[1], 'a:' .. app)
  redis.call('HSET', KEYS[1], 'g:' .. app, num(now))
else
  redis.call('HSET', KEYS[1], 'a:' .. app, json)
  redis.call('HDEL', KEYS[1], 'g:' .. app)
end
redis.call('HSET', KEYS[9], ARGV[7], member, ARGV[15], ARGV[16])
if ARGV[5] == '1' then redis.call('HSET', KEYS[2], 'hd', '1') else redis.call('HDEL', KEYS[2], 'hd') end
if ARGV[17] == '0' then redis.call('HDEL', KEYS[2], 'tl') else redis.call('HSET', KEYS[2], 'tl', ARGV[17]) end
local q = redis.call('HMGET', KEYS[2], 'lo', 'qn', 'ql')
if ARGV[8] ~= '0' then -- the window starts empty; what is left of a pause is over
  redis.call('DEL', KEYS[3])
  redis.call('ZREM', KEYS[6], member)
  local s = redis.call('HGET', KEYS[2], 's')
  redis.call('HSET', KEYS[2], 's', 'HEALTHY', 'v', '0', 'pu', '0', 'ds', '0', 'sd', '0', 'rw', ARGV[8] == '2' and '1' or '0')
  if s ~= 'HEALTHY' then redis.call('HSET', KEYS[2], 'si', num(now)) end
  note_state(KEYS[10], s, 'HEALTHY')
  redis.call('HDEL', KEYS[2], 'tf')
end
if ARGV[8] ~= '0' then -- no judgement of the time before may still be carried out, and no try of it counts
  redis.call('HSET', KEYS[2], 'sn', redis.call('HINCRBY', KEYS[2], 'n', 1))
end
if ARGV[9] ~= '' then redis.call('HSET', KEYS[2], 'cut', q[3] or '0-0', 'cf', ARGV[9]) end
if ARGV[10] == '' then redis.call('HDEL', KEYS[2], 'off') else redis.call('HSET', KEYS[2], 'off', ARGV[10]) end
if ARGV[11] == 'close' then redis.call('HDEL', KEYS[2], 'in', 'ho', 'ud', 'f5') end
if ARGV[12] == '0' then
  redis.call('HDEL', KEYS[2], 'dbg')
else
  redis.call('HSET', KEYS[2], 'dbg', ARGV[12])
  redis.call('ZADD', KEYS[6], ARGV[12], member)
end
if ARGV[13] ~= '' then
  outbox_put(KEYS[7], KEYS[8], nil, ARGV[13], now, '{"at":' .. num(now) .. ',' .. ARGV[14])
end
local holder, waiting = q[1] or '', tonumber(q[2]) or 0
if holder ~= '' then
  wake(holder, member)
elseif waiting > 0 then
  redis.call('ZADD', KEYS[5], num(now), member)
elseif json == '' then
  reg_gone(KEYS[10], KEYS[2], KEYS[3], KEYS[4])
end
return {1}
