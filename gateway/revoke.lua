-- Revokes tokens, each from a moment on; 0 is now. What has ended is left out.
-- KEYS revoked order ends · ARGV name from(ms) until(ms) …
-- Returns how many are new.
redis.call('ZREM', KEYS[2], '')
local now = clock()
local count = 0
for i = 1, #ARGV, 3 do
  local from = tonumber(ARGV[i + 1])
  if from == 0 then from = now end
  if tonumber(ARGV[i + 2]) > now then count = count + revoke(KEYS[1], KEYS[2], KEYS[3], ARGV[i], from, tonumber(ARGV[i + 2])) end
end
return count
