-- Hands off one batch of ongoing conversations that the app has owned since before a moment.
-- KEYS out outd told st ctl… · ARGV where app before kind child ttl reason · author, entry id for each ctl
-- Returns how many were handed off. Repeating a batch changes nothing: who is with an agent stays there.
redis.call('ZREM', KEYS[1], '') -- a removal first: a full Redis lets the rest through
local now, n, app = clock(), 0, ARGV[2]
local g = {where = ARGV[1], told = KEYS[3], s = {out = KEYS[1], outd = KEYS[2]}}
for i = 5, #KEYS do
  local author, id = ARGV[8 + (i - 5) * 2], ARGV[9 + (i - 5) * 2]
  local o = redis.call('HMGET', KEYS[i], 'ot', 'oa', 'ts', 'nm')
  if o[1] == 'BOT' and o[2] == app and (tonumber(o[3]) or 0) <= tonumber(ARGV[3]) then
    local h = {id = id, ctl = KEYS[i], ttl = ARGV[6], author = author, name = o[4] or '', messageId = '', scope = '', owner = app,
      app = app, kind = ARGV[4], child = ARGV[5], rid = '', g = g}
    if hand_off(h, now, ARGV[7]) then n = n + 1 end
  end
end
if n > 0 and (tonumber(redis.call('HGET', KEYS[4], 'in') or '') or 0) > 0 then redis.call('HINCRBY', KEYS[4], 'ho', n) end -- of an incident
return n
