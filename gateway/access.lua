-- What the scripts about tokens share. A revocation is "from until", both in ms: the token is refused from the one moment on, and nothing of
-- it is kept after the other, when it has ended anyway.
local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function num(n) return string.format('%.0f', n) end

-- Numbers the revocations, so that whoever knows all up to one number can ask for those after it. Numbers go up even when the data was lost;
-- that it was, is told by the name of the list, which is new then.
local function revoke(revoked, order, ends, name, from, till)
  local old = redis.call('HGET', revoked, name)
  if old and tonumber(string.match(old, '^%d+')) <= from and tonumber(string.match(old, '%d+$')) >= till then return 0 end
  if old then
    from = math.min(from, tonumber(string.match(old, '^%d+')))
    till = math.max(till, tonumber(string.match(old, '%d+$')))
  end
  local number = math.max(tonumber(redis.call('HGET', revoked, '#') or 0) + 1, clock())
  if redis.call('HEXISTS', revoked, '@') == 0 then redis.call('HSET', revoked, '@', table.concat(redis.call('TIME'), '.')) end
  redis.call('HSET', revoked, '#', num(number), name, num(from) .. ' ' .. num(till))
  redis.call('ZADD', order, num(number), name)
  redis.call('ZADD', ends, num(till), name)
  return 1
end
