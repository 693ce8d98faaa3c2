-- Revokes the token of an app, the one before it, and any others that are named.
-- KEYS token revoked order ends · ARGV name until(ms) name until(ms) …
-- Returns how many were revoked, and the id of the app's token.
-- It begins with a removal, so that a full server still lets tokens be revoked.
redis.call('ZREM', KEYS[3], '')
local now = clock()
local h = redis.call('HMGET', KEYS[1], 'name', 'exp', 'old', 'oldUntil', 'id')
redis.call('DEL', KEYS[1])
local count = 0
if h[1] and tonumber(h[2]) * 1000 > now then count = count + revoke(KEYS[2], KEYS[3], KEYS[4], h[1], now, (tonumber(h[2]) + 60) * 1000) end
if h[3] and tonumber(h[4]) > now then count = count + revoke(KEYS[2], KEYS[3], KEYS[4], h[3], now, tonumber(h[4])) end
for i = 1, #ARGV, 2 do
  if tonumber(ARGV[i + 1]) > now then count = count + revoke(KEYS[2], KEYS[3], KEYS[4], ARGV[i], now, tonumber(ARGV[i + 1])) end
end
return {count, h[5] or ''}
