-- Passes control of one author on the wish of a bot. A conversation that an agent has already is not handed off again.
-- KEYS ctl out outd, told of controls, told of handoffs, then st of each registration there
-- ARGV ownerType ownerApp given name ttl · entry id, json of a control, of a handoff, child tag · then the member of each registration
-- given: the lastUpdateTS that the caller knows, 0 for none. Returns now and whether it was a handoff, or {'stale', ts} when ours is newer.
local now = clock()
local o = redis.call('HMGET', KEYS[1], 'ts', 'tg', 'ot')
local given = tonumber(ARGV[3])
if given > 0 and given < (tonumber(o[1]) or 0) then return {'stale', o[1]} end
local tags, handoff = o[2] or '', ARGV[1] == 'AGENT' and o[3] ~= 'AGENT'
if handoff then
  tags = 'Bot Handoff\n' .. ARGV[9]
elseif ARGV[1] ~= 'AGENT' then
  tags = ''
end
redis.call('HSET', KEYS[1], 'ot', ARGV[1], 'oa', ARGV[2], 'ts', num(now), 'tg', tags)
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'nm', ARGV[4]) end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
outbox_put(KEYS[2], KEYS[3], handoff and KEYS[5] or KEYS[4], ARGV[6], now, '{"at":' .. num(now) .. ',' .. (handoff and ARGV[8] or ARGV[7]))
for i = 6, #KEYS do -- whoever has events of the author in hand asks again whose conversation it is
  local holder = redis.call('HGET', KEYS[i], 'lo') or ''
  if holder ~= '' then wake(holder, ARGV[4 + i]) end
end
return {num(now), handoff and '1' or ''}
