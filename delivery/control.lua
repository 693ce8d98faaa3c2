-- Passes control of one author on the wish of a bot.
-- KEYS ctl own out outd told · ARGV author ownerType ownerApp given name ttl · entry id, json, child tag or ''
-- given: the lastUpdateTS that the caller knows, 0 for none. Returns now, or {'stale', ts} when ours is newer.
local now = clock()
local o = redis.call('HMGET', KEYS[1], 'ts', 'tg', 'ot')
local given = tonumber(ARGV[4])
if given > 0 and given < (tonumber(o[1]) or 0) then return {'stale', o[1]} end
local tags = o[2] or ''
if ARGV[2] == 'AGENT' then
  if ARGV[9] ~= '' and o[3] ~= 'AGENT' then tags = 'Bot Handoff\n' .. ARGV[9] end
  redis.call('ZREM', KEYS[2], ARGV[1])
else
  tags = ''
  redis.call('ZADD', KEYS[2], num(now), ARGV[1])
end
redis.call('HSET', KEYS[1], 'ot', ARGV[2], 'oa', ARGV[3], 'ts', num(now), 'tg', tags)
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'nm', ARGV[5]) end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
outbox_put(KEYS[3], KEYS[4], KEYS[5], ARGV[7], now, '{"at":' .. num(now) .. ',' .. ARGV[8])
return {num(now)}
