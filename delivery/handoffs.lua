-- Hands off one batch of ongoing conversations that the app has owned since before a moment.
-- KEYS own out outd told st ctl… · ARGV company network external app before kind child ttl reason · author, entry id for each ctl
-- Returns how many were handed off. Repeating a batch changes nothing: who is with an agent stays there.
local now, n, app = clock(), 0, ARGV[4]
local g = {company = ARGV[1], network = ARGV[2], external = ARGV[3], told = KEYS[4], s = {out = KEYS[2], outd = KEYS[3]}}
for i = 6, #KEYS do
  local author, id = ARGV[10 + (i - 6) * 2], ARGV[11 + (i - 6) * 2]
  local o = redis.call('HMGET', KEYS[i], 'ot', 'oa', 'ts', 'nm')
  if o[1] == 'BOT' and o[2] == app and (tonumber(o[3]) or 0) <= tonumber(ARGV[5]) then
    local h = {id = id, ctl = KEYS[i], own = KEYS[1], ttl = ARGV[8], author = author, name = o[4] or '', messageId = '', scope = '', owner = app,
      app = app, kind = ARGV[6], child = ARGV[7], rid = '', g = g}
    if hand_off(h, now, ARGV[9]) then n = n + 1 end
  elseif not o[1] then
    redis.call('ZREM', KEYS[1], author) -- control was forgotten
  end
end
if n > 0 and redis.call('EXISTS', KEYS[5]) == 1 then redis.call('HINCRBY', KEYS[5], 'ho', n) end
return n
