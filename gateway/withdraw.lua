-- Revokes the token of an app, those before it that are still in their grace, and any others that are named.
-- KEYS token revoked order ends · ARGV name until(ms) name until(ms) …
-- Returns how many were revoked, and the id of the app's token.
-- It begins with a removal, so that a full server still lets tokens be revoked.
redis.call('ZREM', KEYS[3], '')
local now = clock()
local h = redis.call('HMGET', KEYS[1], 'name', 'exp', 'id', 'grace')
redis.call('DEL', KEYS[1])
local count = 0
if h[1] and tonumber(h[2]) * 1000 > now then count = count + revoke(KEYS[2], KEYS[3], KEYS[4], h[1], now, (tonumber(h[2]) + 60) * 1000) end
for name, till, ends in string.gmatch(h[4] or '', '(%S+) (%d+) (%d+)') do
  if tonumber(ends) > now then count = count + revoke(KEYS[2], KEYS[3], KEYS[4], name, now, tonumber(till)) end
end
for i = 1, #ARGV, 2 do
  if tonumber(ARGV[i + 1]) > now then count = count + revoke(KEYS[2], KEYS[3], KEYS[4], ARGV[i], now, tonumber(ARGV[i + 1])) end
end
return {count, h[3] or ''}
