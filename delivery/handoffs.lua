-- Hands off one batch of ongoing conversations that the app has owned since before a moment.
-- KEYS out outd told st ctl… · ARGV company network external app before kind child ttl reason · author, entry id for each ctl
-- Returns how many were handed off. Repeating a batch changes nothing: who is with an agent stays there.
redis.call('ZREM', KEYS[1], '') -- a removal first: a full Redis lets the rest through
local now, n, app = clock(), 0, ARGV[4]
local g = {company = ARGV[1], network = ARGV[2], external = ARGV[3], told = KEYS[3], s = {out = KEYS[1], outd = KEYS[2]}}
for i = 5, #KEYS do
  local author, id = ARGV[10 + (i - 5) * 2], ARGV[11 + (i - 5) * 2]
  local o = redis.call('HMGET', KEYS[i], 'ot', 'oa', 'ts', 'nm')
  if o[1] == 'BOT' and o[2] == app and (tonumber(o[3]) or 0) <= tonumber(ARGV[5]) then
    local h = {id = id, ctl = KEYS[i], ttl = ARGV[8], author = author, name = o[4] or '', messageId = '', scope = '', owner = app,
      app = app, kind = ARGV[6], child = ARGV[7], rid = '', g = g}
    if hand_off(h, now, ARGV[9]) then n = n + 1 end
  end
end
if n > 0 and redis.call('EXISTS', KEYS[4]) == 1 then redis.call('HINCRBY', KEYS[4], 'ho', n) end
return n
