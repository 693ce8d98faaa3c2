-- Decides, once and for all, whether a notice goes out by itself or in a mail with others, and puts it there.
-- The first to a contact goes by itself, and so do further ones of the same bot while no other has anything to say.
-- KEYS notices outd contact answer told open fresh   (open, fresh: what the contact's open mail holds, and one that may be begun)
-- ARGV entry id · registration · id of the open mail as the caller knows it, of the fresh one · digest 1 or 0 · wait · most in a mail ·
--   seconds to keep the answer, the contact · the fresh mail as JSON without its time · the notice as JSON · its time kind undelivered handed
-- Returns 'again' when another mail has been opened since, or 'ok' and the mail's id, '' for none.
-- Commit point: a crash before it decides anew; after it the same question gets the same answer, so that nothing is told twice or lost.
redis.call('ZREM', KEYS[1], '') -- a removal first: a full Redis lets the rest through
local said = redis.call('GET', KEYS[4])
if said then return {'ok', said == '-' and '' or said} end
local now, wait, digest = clock(), tonumber(ARGV[6]), ARGV[5] == '1'
local p = digest and 'd' or 'm'
local c = redis.call('HMGET', KEYS[3], 'until', 'first', p .. 'id', p .. 'due', p .. 'n', 'why')
if (c[3] or '') ~= ARGV[3] then return {'again'} end

local function answer(mail)
  redis.call('SET', KEYS[4], mail == '' and '-' or mail, 'EX', ARGV[8])
  redis.call('EXPIRE', KEYS[3], ARGV[9])
  return {'ok', mail}
end

local ends = tonumber(c[1]) or 0
local due = c[3] and redis.call('ZSCORE', KEYS[1], c[3])
local open = due and tonumber(due) == tonumber(c[4]) and (tonumber(c[5]) or 0) < tonumber(ARGV[7]) -- nobody has taken it yet
if not digest and now >= ends then -- a first one
  redis.call('HSET', KEYS[3], 'until', num(now + wait), 'first', ARGV[2])
  redis.call('HDEL', KEYS[3], 'why')
  return answer('')
end
if not digest and c[2] == ARGV[2] and not open then return answer('') end

local mail, items = ARGV[3], KEYS[6]
if not open then
  mail, items = ARGV[4], KEYS[7]
  local at = digest and now + wait or ends
  local json = '{"at":' .. num(at) .. ','
  if c[6] then json = json .. '"lastError":' .. cjson.encode(c[6]) .. ',' end
  outbox_put(KEYS[1], KEYS[2], KEYS[5], mail, at, json .. ARGV[10])
  redis.call('HSET', KEYS[3], p .. 'id', mail, p .. 'due', num(at), p .. 'n', '0')
end
local new = 1
if digest then -- the last notice of each registration, and how many it stands for
  local at, kind = tonumber(ARGV[12]), ARGV[13]
  local s = redis.call('HGET', items, 'c:' .. ARGV[2])
  local t = {0, 0, at, 0, 0, 0} -- degraded healthy first last undelivered handed
  if s then
    t, new = {}, 0
    for n in string.gmatch(s, '%d+') do t[#t + 1] = tonumber(n) end
  end
  local k = kind == 'healthy' and 2 or 1
  t[k], t[3] = t[k] + 1, math.min(t[3], at)
  if k == 2 then t[5], t[6] = t[5] + tonumber(ARGV[14]), t[6] + tonumber(ARGV[15]) end
  if at >= t[4] then
    t[4] = at
    redis.call('HSET', items, 't:' .. ARGV[2], ARGV[11])
  end
  for i = 1, 6 do t[i] = num(t[i]) end
  redis.call('HSET', items, 'c:' .. ARGV[2], table.concat(t, ' '))
else
  redis.call('HSET', items, 't:' .. ARGV[1], ARGV[11])
end
redis.call('EXPIRE', items, ARGV[9])
redis.call('HINCRBY', KEYS[3], p .. 'n', new)
return answer(mail)
