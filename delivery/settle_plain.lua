-- Settles acknowledged deliveries of bots of which nothing else is to be said or asked: the lease is held and needs no renewal, no transition and
-- no debugging changes what an acknowledgement means. A registration with nothing left may rest. What is anything else is left to settle.lua.
-- KEYS led, then for each group st win q ok, and due where it may rest
-- ARGV window keepOK, groups, then for each group token transition rest (the member of due, or ''), deliveries, their ids, their records.
-- Returns now, then for each group '' where nothing was done, or a line of lines: rest|ok, events waiting, acknowledgements in the window.
-- Commit point: as of settle.lua.
local KEYS, ARGV, call, try = KEYS, ARGV, redis.call, redis.pcall
local now = clock()
local today, stamp = num(math.floor(now / 86400000)), num(now) .. '\n'
local span, keepOK = tonumber(ARGV[1]), tonumber(ARGV[2])
local k, a = 1, 3
-- A table: to a local of ours that functions assign to, the in-process store's Lua is not true once an error was caught.
local sum = {events = 0, bytes = 0}

-- Takes the deliveries from the argument i on out of the queue. Returns the records of those that were there, and their bytes.
local function remove(q, i, n)
  local records, size = {}, 0
  for j = i, i + n - 1 do
    if call('XDEL', q, ARGV[j]) == 1 then
      local record = ARGV[j + n]
      records[#records + 1], size = stamp .. record, size + tonumber(string.match(record, '^%d+'))
    end
  end
  return records, size
end

local function note(ok, records)
  if call('LPUSH', ok, unpack(records)) > keepOK + 64 then call('LTRIM', ok, 0, keepOK - 1) end
end

-- Settles what was there, in a window that is calm. Returns how many events wait now, and whether the lease was given back.
local function settle(st, q, ok, v, w, i, n, member, due)
  local records, size = remove(q, i, n)
  local fresh, waiting, left = #records, tonumber(v[5]) or 0, tonumber(v[6]) or 0
  if fresh == 0 then return waiting, false end
  waiting, left = waiting - fresh, left - size
  sum.events, sum.bytes = sum.events + fresh, sum.bytes + size
  local rests = member ~= '' and waiting == 0 and left == 0 and call('XLEN', q) == 0
  local delivered = num((tonumber(v[7]) or 0) + fresh)
  if rests then
    call('ZREM', due, member)
    call('HSET', st, 'qn', '0', 'qb', '0', 'c:delivered', delivered, 'la', num(now), 'lo', '', 'le', '0')
  else
    call('HSET', st, 'qn', num(waiting), 'qb', num(left), 'c:delivered', delivered, 'la', num(now))
  end
  window_acknowledge(w, fresh)
  alone(st, note, ok, records)
  return waiting, rests
end

local reply = {num(now)}
for g = 1, tonumber(ARGV[3]) do
  local st, win, member, n, line = KEYS[k + 1], KEYS[k + 2], ARGV[a + 3], tonumber(ARGV[a + 4]), ''
  local v = try('HMGET', st, 'lo', 'n', 'dbg', 'off', 'qn', 'qb', 'c:delivered', 'do')
  local plain = v[1] == ARGV[a + 1] and (v[2] or '') == ARGV[a + 2] and (tonumber(v[3] or '') or 0) == 0 and (v[4] or '') == '' and v[8] == today
  local w = plain and window_calm(win, now, span)
  if w then
    local went, waiting, rests = alone(st, settle, st, KEYS[k + 3], KEYS[k + 4], v, w, a + 5, n, member, KEYS[k + 5])
    if went then line = (rests and 'rest\n' or 'ok\n') .. num(waiting) .. '\n' .. num(w.n[1]) end
  end
  reply[g + 1] = line
  k, a = k + (member == '' and 4 or 5), a + 4 + 2 * n
end
if sum.events > 0 then
  call('HINCRBY', KEYS[1], 'qn', num(-sum.events)); call('HINCRBY', KEYS[1], 'qb', num(-sum.bytes)); call('HINCRBY', KEYS[1], 'c:delivered', num(sum.events))
end
reply[#reply + 1] = SICK
return reply
