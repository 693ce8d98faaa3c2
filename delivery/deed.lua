-- Keeps a company's audit trail.
-- KEYS open deeds daily · ARGV what mark json daily keep age
--   open: hash, mark -> time daily json of a deed that was begun and whose end nobody has told yet; # -> the last number given
--   deeds, daily: lists, the newest first, of lines: number time outcome json. Each keeps so many of an age of at most so many ms.
-- what: 'begin', then 'done', or 'not' when it was refused, of which nothing remains.
-- Commit points: after 'begin' a crash leaves the deed open, and a minute later the next one of the company moves it to its list as unknown;
-- after 'done' it is in the list.
local now = clock()
local what, mark, keep, age = ARGV[1], ARGV[2], tonumber(ARGV[5]), tonumber(ARGV[6])

local function add(daily, at, outcome, json)
  local key = daily == '1' and KEYS[3] or KEYS[2]
  local n = redis.call('HINCRBY', KEYS[1], '#', 1)
  redis.call('LPUSH', key, num(n) .. ' ' .. num(at) .. ' ' .. outcome .. ' ' .. json)
  redis.call('LTRIM', key, 0, keep - 1)
  for _ = 1, 10 do -- at most as many go as could have come since
    local last = redis.call('LINDEX', key, -1)
    local ms = last and tonumber(string.match(last, '^%d+ (%d+) '))
    if not ms or ms > now - age then break end
    redis.call('RPOP', key)
  end
  redis.call('PEXPIRE', key, age)
end

if what == 'begin' then
  redis.call('HSET', KEYS[1], mark, num(now) .. ' ' .. ARGV[4] .. ' ' .. ARGV[3])
  local open = redis.call('HGETALL', KEYS[1])
  for i = 1, #open, 2 do
    local at, daily, json = string.match(open[i + 1], '^(%d+) (%d) (.*)$')
    if at and tonumber(at) < now - 60000 then
      redis.call('HDEL', KEYS[1], open[i])
      add(daily, tonumber(at), 'unknown', json)
    end
  end
else
  local begun = redis.call('HDEL', KEYS[1], mark)
  if what == 'done' and begun == 1 then add(ARGV[4], now, 'done', ARGV[3]) end
end
redis.call('PEXPIRE', KEYS[1], age)
return {num(now)}
