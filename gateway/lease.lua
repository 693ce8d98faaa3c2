-- Lends a part of what a token may ask for, by the generic cell rate algorithm: what is kept is the moment at which all that was lent is used up.
-- KEYS arrival · ARGV interval(us, of one) burst(us) owed wanted
-- Returns how many are lent, and in how many us one will be, if none is.
-- What is owed was used already, and is taken whether there is any or not.
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000000 + tonumber(t[2])
local each, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local arrival = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now) + tonumber(ARGV[3]) * each
local lent = math.max(0, math.min(tonumber(ARGV[4]), math.floor((now + burst - arrival) / each + 0.000001)))
arrival = arrival + lent * each
redis.call('SET', KEYS[1], string.format('%.0f', arrival), 'PX', math.ceil(math.max(0, arrival - now) / 1000) + 1000)
local wait = 0
if lent == 0 then wait = math.max(1, math.ceil(arrival + each - burst - now)) end
return {lent, wait}
