-- Reads everything of one registration that must balance, in one step and without writing.
-- KEYS reg st win q due judge hashes x · ARGV app member digest · cursor count (of a page of the queue; '': from its beginning; 0: no page)
-- Returns now, the entity's version, whether the registration is there and whether it was deleted, its name in hashes, when it is due and
-- when it is judged ('': it does not stand there), st, win, length of the queue, and of the page: events, bytes, last id; of x: how many stand there, and the
-- first moment.
local function moment(score)
  return score and num(tonumber(score) or tonumber((string.gsub(score, 'e', '.0e')))) or '' -- as of the in-process store: 2e+12
end

local function score(key) return moment(redis.call('ZSCORE', key, ARGV[2])) end

local events, bytes, last = 0, 0, ARGV[4]
if ARGV[5] ~= '0' then
  for _, entry in ipairs(redis.call('XRANGE', KEYS[4], last == '' and '-' or '(' .. last, '+', 'COUNT', ARGV[5])) do
    events, last = events + 1, entry[1]
    for i = 1, #entry[2], 2 do
      if entry[2][i] == 'b' then bytes = bytes + #entry[2][i + 1] end
    end
  end
end
return {num(clock()), redis.call('HGET', KEYS[1], 'ver') or '0', redis.call('HEXISTS', KEYS[1], 'a:' .. ARGV[1]),
  redis.call('HEXISTS', KEYS[1], 'g:' .. ARGV[1]), redis.call('HGET', KEYS[7], ARGV[3]) or '', score(KEYS[5]), score(KEYS[6]),
  redis.call('HGETALL', KEYS[2]), redis.call('HGETALL', KEYS[3]), redis.call('XLEN', KEYS[4]), events, bytes, last,
  redis.call('ZCARD', KEYS[8]), moment(redis.call('ZRANGE', KEYS[8], 0, 0, 'WITHSCORES')[2])}
