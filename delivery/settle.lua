-- Settles outcomes, renews or takes the lease, and reads what comes next. Claim and renewal are the same call without outcomes.
-- KEYS and ARGV as read below: limits, shards, then groups, each for one registration.
-- Returns now, then for each group 'lost', 'sick', or a line of lines (rest|ok version lease waiting handed cut fate expires counts stamp), alone or with the
-- standing, the next events, the owners asked for, and what has expired; and at last what was sick.
-- Commit point: a crash before it delivers again; after it nothing is owed.
local KEYS, ARGV = KEYS, ARGV
local ki, ai = 0, 8

HOT = {lo = 1, le = 2, qn = 3, qb = 4, ['c:delivered'] = 5, s = 6, n = 7, v = 8, ['do'] = 9, dbg = 10, off = 11, tf = 12, rw = 13, hd = 14, cut = 15, cf = 16,
  xp = 17, tl = 18, pu = 19, sn = 20}
read_hot = function(st)
  return redis.call('HMGET', st, 'lo', 'le', 'qn', 'qb', 'c:delivered', 's', 'n', 'v', 'do', 'dbg', 'off', 'tf', 'rw', 'hd', 'cut', 'cf', 'xp', 'tl', 'pu', 'sn')
end

redis.call('ZREM', KEYS[1], '') -- a removal first: a full Redis lets the rest through, so that it can drain
local now = clock()
local today = num(math.floor(now / 86400000))
local span, lease, ctlTTL = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local records = {keepOK = tonumber(ARGV[4]), keepErr = ARGV[5], ttl = ARGV[6], today = today}
local hold, heir = tonumber(ARGV[7]), ARGV[8]

local function note(g, r, o, handed)
  if o.fate == 'delivered' then
    local line = {num(now), o.size, o.uuid, o.fate, '', o.code, o.tries, o.latency, string.match(o.sid, '^%d+'), '', '', o.origin or '', o.url, ''}
    return log_ok(r, g.okLog, {table.concat(line, '\n')}, records)
  end
  local f = {'i', o.uuid, 'f', o.fate, 'c', o.class, 'o', o.code, 'm', o.message, 't', o.tries, 'l', o.latency,
    'a', string.match(o.sid, '^%d+'), 'h', handed, 'u', o.url}
  if o.origin then f[#f + 1] = 'w'; f[#f + 1] = o.origin end
  log(r, g.errLog, f, o.body, records)
end

-- What a failed outcome leaves behind for people.
local function note_failure(g, r, o)
  add(r, 'ud', 1)
  if o.fate ~= 'failed' then return end
  local rid = g.rid .. o.uuid
  put(r, 'fc', o.class); put(r, 'fa', num(now)); put(r, 'fr', rid)
  local last, n = rid, 1
  for id in string.gmatch(get(r, 'f5'), '%S+') do
    if n < 5 then last = last .. ' ' .. id; n = n + 1 end
  end
  put(r, 'f5', last)
end

-- Whether what began under a transition says something of the bot as it is registered now.
local function is_ours(r, began) return began >= number(r, 'sn') end

local function settle(g, r, o)
  if redis.call('XDEL', g.q, o.sid) == 0 then return end -- settled before: this is a repeat
  g.eventful = true -- from here on it has its fate, whatever cannot be written beside it
  add(r, 'qn', -1); add(r, 'qb', -tonumber(o.size)); add(r, 'c:' .. o.fate, 1)
  if o.expires then alone(g.member, redis.call, 'ZREM', g.x, o.sid) end
  local kind, ours = tonumber(o.kind), is_ours(r, tonumber(o.began))
  if ours then
    if kind >= 0 then reg_count(r, kind, 1) end
    if o.fate == 'delivered' then put(r, 'la', num(now)) end
    if (o.fate == 'failed' or o.fate == 'suppressed') and kind >= 0 and not r.debug then note_failure(g, r, o) end
  end
  local handed = ''
  if o.h then
    local _, done = alone(g.member, hand_off, o.h, now, o.fate)
    if done then
      handed = o.h.kind
      g.handed = g.handed + 1
      if ours and (kind >= 0 and not r.debug or in_incident(r)) then add(r, 'ho', 1) end
    end
  end
  alone(g.member, note, g, r, o, handed)
end

-- Settles the deliveries that were acknowledged by tries that began under the transition of g.stamp, all in one step: ids and then records lie in ARGV from g.first on. Each is taken out of the queue
-- by itself: what is not there any more was settled before, by a call whose reply was lost, or was forgotten by the store in a failover, and one
-- XDEL for all would not tell which of them that is.
local function settle_delivered(g, r)
  local n, q, bytes, kept, stamp = g.delivered, g.q, 0, {}, num(now) .. '\n'
  for i = g.first, g.first + n - 1 do
    if redis.call('XDEL', q, ARGV[i]) == 1 then
      local record = ARGV[i + n]
      kept[#kept + 1], bytes = stamp .. record, bytes + tonumber(string.match(record, '^%d+'))
    end
  end
  local fresh = #kept
  if fresh == 0 then return end
  add(r, 'qn', -fresh); add(r, 'qb', -bytes); add(r, 'c:delivered', fresh)
  if is_ours(r, tonumber(string.match(g.stamp, '^%d+')) or 0) then
    put(r, 'la', num(now))
    reg_count(r, 0, fresh)
  end
  alone(g.member, log_ok, r, g.okLog, kept, records)
end

-- Appends an event as replies carry it: id, kind and part, author, body, and the event that it is a delivery of once more. Returns its size.
local function push(events, entry)
  local n, f = #events, entry[2]
  events[n + 1], events[n + 2], events[n + 3], events[n + 4], events[n + 5] = entry[1], f[2], f[4], f[6], f[8] or ''
  return #f[6]
end

-- Whether what waits is held through a pause, where it is.
local function holding(r) return get(r, 'hd') == '1' and get(r, 's') == 'DOWN' and now < number(r, 'pu') end

-- The next events after the cursor, within the bounds asked for.
local function read_next(g, r)
  local events, bytes, cursor, step, max = {}, 0, g.cursor, 16, g.max
  if holding(r) then return events end
  if get(r, 'hd') == '1' and get(r, 's') == 'DOWN' then max = math.min(max, step) end -- the trial is one, and the rest stays where it is if it fails
  while #events < 5 * max and bytes < g.maxBytes do -- in steps: big events must not be copied to be left
    local entries = redis.call('XRANGE', g.q, '(' .. cursor, '+', 'COUNT', math.min(step, max - #events / 5))
    for _, entry in ipairs(entries) do
      cursor, bytes = entry[1], bytes + push(events, entry)
      if bytes >= g.maxBytes then break end
    end
    if #entries < step then break end
    step = step * 2
  end
  return events
end

-- When the first of what waits has expired (ms), or 0: by its own time, and where head is set, by the registration's time to live as well.
local function expiry(g, r, head)
  local at, ttl = number(r, 'xp'), head and time_to_live(r, hold) or 0
  local first = ttl > 0 and redis.call('XRANGE', g.q, '-', '+', 'COUNT', 1)[1]
  if not first then return at end
  ttl = ttl + tonumber(string.match(first[1], '^%d+'))
  return (at == 0 or ttl < at) and ttl or at
end

-- What has expired, but for what the lane has under way, within the bounds asked for. Returns when to look again, in ms (0: there is no
-- reason to), and the events.
local function reap(g, r)
  local found, bytes, under, seen, next = {}, 0, 0, {}, 0
  for sid in string.gmatch(g.skip, '%S+') do seen[sid] = true; under = under + 1 end
  local function full() return #found >= 5 * g.count or bytes >= g.bytes end
  local function take(entry)
    if seen[entry[1]] then return end
    seen[entry[1]] = true
    bytes = bytes + push(found, entry)
  end
  local function at(ms) if next == 0 or ms < next then next = ms end end
  if get(r, 'xp') ~= '' then
    for _, sid in ipairs(redis.call('ZRANGEBYSCORE', g.x, '-inf', num(now), 'LIMIT', 0, g.count + under)) do
      if full() then break end
      local entry = not seen[sid] and redis.call('XRANGE', g.q, sid, sid)[1]
      if entry then take(entry) end
    end
    local later = redis.call('ZRANGEBYSCORE', g.x, '(' .. num(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if later[2] then at(moment(later[2])) end
  end
  local ttl, from = time_to_live(r, hold), '-'
  while ttl > 0 and not full() do
    local entries = redis.call('XRANGE', g.q, from, num(now - ttl), 'COUNT', 16)
    for _, entry in ipairs(entries) do
      if full() then break end
      take(entry)
      from = '(' .. entry[1]
    end
    if #entries < 16 then
      local later = redis.call('XRANGE', g.q, num(now - ttl + 1), '+', 'COUNT', 1)[1]
      if later then at(tonumber(string.match(later[1], '^%d+')) + ttl) end
      break
    end
  end
  return {num(full() and now or next), found}
end

-- Puts the registration to rest when the lane has nothing left. What is still in the queue then (held through a pause, or overlooked)
-- becomes due again.
local function rest(g, r, events, reaped)
  if not g.mayRest or #events > 0 or reaped and #reaped[2] > 0 then return false end
  put(r, 'lo', ''); put(r, 'le', '0')
  if redis.call('XLEN', g.q) > 0 then
    local later = get(r, 'hd') == '1' and number(r, 'pu') or 0 -- held events wait for the end of the pause
    local expires = expiry(g, r, true)
    if expires > 0 then later = math.min(later, expires) end
    redis.call('ZADD', g.s.due, num(math.max(later, now + 1)), g.member)
    return true
  end
  redis.call('ZREM', g.s.due, g.member)
  -- An empty queue has no events and no bytes, whatever a store that has forgotten some was told; accepted shows what is missing.
  if number(r, 'qn') ~= 0 then add(r, 'qn', -number(r, 'qn')) end
  if number(r, 'qb') ~= 0 then add(r, 'qb', -number(r, 'qb')) end
  return true
end

local shards
shards, ki, ai = read_shards(tonumber(ARGV[ai + 1]), ki, ai + 1)

-- What few settlements need of a registration is read when it is asked for.
local GROUP = {__index = function(g, field)
  g.rid, g.where, g.app = string.match(g.cold, '^([^\n]*)\n([^\n]*)\n(.*)$')
  return rawget(g, field)
end}

local NONE = {}

-- Reads an outcome of the group g, behind the argument a and the key k. Returns it and where the next begins.
local function read_outcome(g, a, k)
  local o = {sid = ARGV[a + 1], uuid = ARGV[a + 2], fate = ARGV[a + 3], kind = ARGV[a + 4], class = ARGV[a + 5], code = ARGV[a + 6], message = ARGV[a + 7],
    tries = ARGV[a + 8], latency = ARGV[a + 9], url = ARGV[a + 10], body = ARGV[a + 11], size = ARGV[a + 12], began = ARGV[a + 13]}
  local has = tonumber(ARGV[a + 14]) -- 1: a customer to hand off, 2: a time of its own in x, 4: an origin, of which it is a delivery made once more
  a = a + 14
  if has >= 4 then o.origin = ARGV[a + 1]; a = a + 1 end
  o.expires = has % 4 >= 2
  if has % 2 == 1 then
    o.h = {id = g.s.hex .. '-h-' .. o.uuid, ctl = KEYS[k + 1], ttl = ctlTTL, author = ARGV[a + 1], name = ARGV[a + 2], messageId = ARGV[a + 3], scope = ARGV[a + 4],
      owner = g.app, app = g.app, kind = ARGV[a + 5], child = ARGV[a + 6], rid = g.rid .. o.uuid, g = g}
    a, k = a + 6, k + 1
  end
  return o, a, k
end

local function read_group()
  local a, k = ai, ki
  local take = ARGV[a + 5]
  local g = {s = shards[tonumber(ARGV[a + 1])], reg = KEYS[k + 1], st = KEYS[k + 2], win = KEYS[k + 3], q = KEYS[k + 4], okLog = KEYS[k + 5], errLog = KEYS[k + 6],
    told = KEYS[k + 7], handed = 0, member = ARGV[a + 2], cold = ARGV[a + 3], token = ARGV[a + 4], take = take == '1' or take == '3', mayRest = ARGV[a + 6] == '1',
    trialFailed = ARGV[a + 7], ramp = ARGV[a + 8], stamp = ARGV[a + 9], cursor = ARGV[a + 10], max = tonumber(ARGV[a + 11]), maxBytes = tonumber(ARGV[a + 12]),
    outcomes = NONE, owners = NONE, x = false, count = 0, bytes = 0, skip = '', delivered = 0, first = 0, eventful = false}
  a, k = a + 12, k + 7
  if take >= '2' then
    g.x, g.count, g.bytes, g.skip = KEYS[k + 1], tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), ARGV[a + 3]
    a, k = a + 3, k + 1
  end
  g.delivered, g.first = tonumber(ARGV[a + 1]), a + 2
  a = a + 1 + 2 * g.delivered
  local n = tonumber(ARGV[a + 1])
  a = a + 1
  if n > 0 then g.outcomes = {} end
  setmetatable(g, GROUP)
  for i = 1, n do g.outcomes[i], a, k = read_outcome(g, a, k) end
  n = tonumber(ARGV[a + 1])
  if n > 0 then g.owners = {} end
  for i = 1, n do g.owners[i] = KEYS[k + i] end
  ki, ai = k + n, a + 1
  return g
end

-- Extends the lease when enough of it has gone by to be worth a write.
local function renew(g, r)
  local ends = number(r, 'le')
  if not g.take and ends - now >= lease - 1000 then return ends end
  ends = now + lease
  put(r, 'lo', g.token); put(r, 'le', num(ends))
  redis.call('ZADD', g.s.due, num(ends), g.member)
  return ends
end

local function owners_of(g)
  local owners = {}
  for i, ctl in ipairs(g.owners) do
    local o = redis.call('HMGET', ctl, 'ot', 'oa')
    owners[i] = (o[1] or '') .. '\n' .. (o[2] or '')
  end
  return owners
end

local function group(g)
  local r = reg_open(g.st, g.win, g.member, now, span, g.s)
  if g.take and get(r, 'n') == '' then -- deleted a moment ago: there is nothing to hold
    redis.call('ZREM', g.s.due, g.member)
    return 'lost'
  end
  if get(r, 'lo') ~= g.token and not (g.take and vacant(r, now, g.token, heir)) then return 'lost' end
  if g.delivered > 0 then settle_delivered(g, r) end
  for _, o in ipairs(g.outcomes) do settle(g, r, o) end
  if g.trialFailed ~= '' and get(r, 's') == 'DOWN' and get(r, 'n') == g.trialFailed then put(r, 'tf', g.trialFailed) end
  if g.ramp ~= '' then put(r, 'rw', g.ramp) end
  local reaped
  if g.x then
    local first = redis.call('ZRANGE', g.x, 0, 0, 'WITHSCORES')[2]
    put(r, 'xp', first and num(moment(first)) or '')
    if g.count > 0 then reaped = reap(g, r) end
  end
  local events = g.max > 0 and read_next(g, r) or {}
  local rested = rest(g, r, events, reaped)
  local ends = rested and now or renew(g, r)
  local owners = owners_of(g)
  local counts = window_counts(reg_window(r))
  -- What the lane knows of a well bot's standing already need not be said again.
  local v = r.v
  local stamp = (v[HOT.n] or '') .. ' ' .. (v[HOT.tf] or '') .. ' ' .. (v[HOT.dbg] or '') .. ' ' .. (v[HOT.off] or '') .. ' ' .. (v[HOT.rw] or '') .. ' ' .. (v[HOT.hd] or '')
  local standing = ''
  if stamp ~= g.stamp or g.eventful or r.w.f > 0 or v[HOT.s] ~= 'HEALTHY' or v[HOT.v] ~= '1' then standing = reg_standing(r) end
  local line = (rested and 'rest\n' or 'ok\n') .. (redis.call('HGET', g.reg, 'ver') or '0') .. '\n' .. num(ends - now) .. '\n' .. get(r, 'qn') .. '\n' .. g.handed .. '\n' ..
    (v[HOT.cut] or '') .. '\n' .. (v[HOT.cf] or '') .. '\n' .. num(expiry(g, r, holding(r))) .. '\n' .. counts .. '\n' .. stamp
  reg_close(r, now)
  R[g.st] = nil
  if rested and get(r, 'off') == '2' and redis.call('XLEN', g.q) == 0 then reg_gone(shards[1].led, g.st, g.win, g.q) end
  if standing == '' and #events == 0 and #owners == 0 and not reaped then return line end
  return {line, standing, events, owners, reaped}
end

local reply = {num(now)}
ai = ai + 1
for i = 1, tonumber(ARGV[ai]) do
  local g = read_group()
  local ok, answer = alone(g.member, group, g)
  if not ok then -- what was settled is noted
    local r = R[g.st]
    if r then alone(g.member, reg_close, r, now) end
    R[g.st] = nil
  end
  reply[#reply + 1] = ok and answer or 'sick'
end
ledger_close(shards)
reply[#reply + 1] = SICK
return reply
