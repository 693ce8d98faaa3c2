-- Makes the one token of an app, or replaces it, or says which it is. Tokens themselves are nowhere: what is kept makes the same one again.
-- KEYS token revoked order ends · ARGV what(create, read, refresh) id name kid ttl(s) grace(ms) company app old(name) oldUntil(ms) oldID kids(blank between)
-- Returns what came of it (made, active, none, other), id, kid, issued(s), expires(s), now(ms).
-- grace, in the token's hash: the tokens that were refreshed and are still good, each with its end and the end of its grace; old: the last of them.
-- Only one of many creates at once makes a token; a crash before the reply leaves a token that read tells of.
redis.call('ZREM', KEYS[3], '')
local now = clock()
local h = redis.call('HMGET', KEYS[1], 'id', 'name', 'kid', 'iat', 'exp', 'old', 'grace')
local active = false
if h[1] and tonumber(h[5]) * 1000 > now and string.find(ARGV[12], h[3], 1, true) then
  local gone = redis.call('HGET', KEYS[2], h[2])
  active = not gone or tonumber(string.match(gone, '^%d+')) > now
end
if ARGV[1] == 'refresh' and active and h[2] ~= ARGV[9] and h[6] ~= ARGV[9] then return {'other', '', '', '0', '0', num(now)} end
if active and not (ARGV[1] == 'refresh' and h[2] == ARGV[9]) then return {'active', h[1], h[3], h[4], h[5], num(now)} end
if ARGV[1] == 'read' then return {'none', '', '', '0', '0', num(now)} end
local issued = math.floor(now / 1000)
local expires = issued + tonumber(ARGV[5])
local grace = {}
if ARGV[1] == 'refresh' then grace = {ARGV[9], ARGV[10], num(now + tonumber(ARGV[6]))} end
for name, till, ends in string.gmatch(h[7] or '', '(%S+) (%d+) (%d+)') do
  if tonumber(ends) > now then
    if #grace < 300 then
      grace[#grace + 1], grace[#grace + 2], grace[#grace + 3] = name, till, ends
    else -- whoever refreshes that often has a hundred others
      revoke(KEYS[2], KEYS[3], KEYS[4], name, now, tonumber(till))
    end
  end
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'id', ARGV[2], 'name', ARGV[3], 'kid', ARGV[4], 'iat', num(issued), 'exp', num(expires), 'company', ARGV[7], 'app', ARGV[8],
  'grace', table.concat(grace, ' '))
if ARGV[1] == 'refresh' then
  redis.call('HSET', KEYS[1], 'old', ARGV[9])
  revoke(KEYS[2], KEYS[3], KEYS[4], ARGV[9], tonumber(grace[3]), tonumber(ARGV[10]))
end
redis.call('PEXPIREAT', KEYS[1], num((expires + 60) * 1000))
return {'made', ARGV[2], ARGV[4], num(issued), num(expires), num(now)}
