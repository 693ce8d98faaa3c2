-- Writes a registration that was sealed anew, if nobody has written it meanwhile. It says the same as before, so its entity keeps its version.
-- KEYS reg · ARGV field was is, for each registration
-- Returns the number of those written.
local n = 0
for i = 1, #ARGV, 3 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
    n = n + 1
  end
end
return {n}
