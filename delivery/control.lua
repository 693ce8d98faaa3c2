-- Passes control of one author on the wish of a bot.
-- KEYS ctl out outd told · ARGV ownerType ownerApp given name ttl · entry id, json, child tag or ''
-- given: the lastUpdateTS that the caller knows, 0 for none. Returns now, or {'stale', ts} when ours is newer.
local now = clock()
local o = redis.call('HMGET', KEYS[1], 'ts', 'tg', 'ot')
local given = tonumber(ARGV[3])
if given > 0 and given < (tonumber(o[1]) or 0) then return {'stale', o[1]} end
local tags = o[2] or ''
if ARGV[1] == 'AGENT' then
  if ARGV[8] ~= '' and o[3] ~= 'AGENT' then tags = 'Bot Handoff\n' .. ARGV[8] end
else
  tags = ''
end
redis.call('HSET', KEYS[1], 'ot', ARGV[1], 'oa', ARGV[2], 'ts', num(now), 'tg', tags)
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'nm', ARGV[4]) end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
outbox_put(KEYS[2], KEYS[3], KEYS[4], ARGV[6], now, '{"at":' .. num(now) .. ',' .. ARGV[7])
return {num(now)}
