-- Takes events in: dedupes, notes who owns the conversation, queues or suppresses, and claims what is idle for this replica.
-- KEYS and ARGV as read below: limits, shards, then groups, each for one entity.
-- Returns now, then for each group 'stale', 'sick', or the lines of its events, and the state of every registration that this call claimed; and at
-- last what was sick.
-- Commit point: the reply. A crash before it loses an event that nobody was told is stored; the source sends it again and its id
-- makes it one. A crash after it leaves queued events with a lease that ends: whoever looks next claims them.
local KEYS, ARGV = KEYS, ARGV
local ki, ai = 0, 13

HOT = {lo = 1, le = 2, qn = 3, qb = 4, ql = 5, ['c:accepted'] = 6, s = 7, pu = 8, dbg = 9}
read_hot = function(st) return redis.call('HMGET', st, 'lo', 'le', 'qn', 'qb', 'ql', 'c:accepted', 's', 'pu', 'dbg') end

local now = clock()
local today = num(math.floor(now / 86400000))
local span, token, lease = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local replica = string.match(token, '^[^:]+')
local dupTTL, ctlTTL, ongoing = ARGV[4], ARGV[5], tonumber(ARGV[6])
local maxEvents, maxBytes = tonumber(ARGV[7]), tonumber(ARGV[8])
local records = {keepOK = tonumber(ARGV[9]), keepErr = ARGV[10], ttl = ARGV[11], today = today}
local hold, heir = tonumber(ARGV[12]), ARGV[13]

local function note(r, t, ok, e, fate, class, handed)
  if ok then
    local line = {num(now), #e.body, e.part, fate, class, '', '', '', num(now), handed, '', e.origin or '', t.url, ''}
    return log_ok(r, t.ok, {table.concat(line, '\n')}, records)
  end
  local f = {'i', e.part, 'f', fate, 'c', class, 'a', num(now), 'h', handed, 'u', t.url}
  if e.origin then f[#f + 1] = 'w'; f[#f + 1] = e.origin end
  log(r, t.err, f, e.body, records)
end

local times = {today = today, minute = num(math.floor(now / 60000)), now = num(now)}

-- Who owns the author's conversation after this event; writes it. Returns owner type and app.
local function own_event(g, e)
  local kind = e.admitted and e.kind or '' -- what is not admitted changes nothing
  if kind == 'm' then
    local ot, oa, new = conversation(times, e.ctl, g.live, e.name)
    if new then converse(e.ctl, g.own, e.author, e.part, new, ctlTTL, ongoing, now) end
    return ot, oa
  end
  local o = redis.call('HMGET', e.ctl, 'ot', 'oa', 'nm', 'ts', 'day')
  local ot, oa, known, set = o[1] or '', o[2] or '', o[4], {}
  if kind == 'd' then -- closed: the bot's again, and no longer ongoing
    ot, oa = (g.live ~= '' and 'BOT' or ''), g.live
    set = {'ot', ot, 'oa', oa, 'ts', num(now), 'tg', '', 'lm', ''}
  elseif kind == 'c' then
    ot, oa = e.ownerType, e.ownerApp
    set = {'ot', ot, 'oa', oa, 'ts', num(now)}
    if ot == 'BOT' then set[7], set[8] = 'tg', '' end
  elseif not known then
    return ot, oa
  end
  if e.name ~= '' and e.name ~= o[3] then set[#set + 1] = 'nm'; set[#set + 1] = e.name end
  local stale = o[5] ~= today
  if stale then set[#set + 1] = 'day'; set[#set + 1] = today end
  if #set > 0 then redis.call('HSET', e.ctl, unpack(set)) end
  if stale then redis.call('PEXPIRE', e.ctl, ctlTTL) end -- forgotten so long after the last event, give or take a day
  if kind == 'd' then redis.call('ZREM', g.own, e.author) end
  return ot, oa
end

-- owner: the app that must own the conversation; app, rid: whose delivery it was.
local function handoff_of(g, e, owner, app, rid)
  return {id = g.s.hex .. '-h-' .. e.part, ctl = e.ctl, ttl = ctlTTL, author = e.author, name = e.name, body = e.body, owner = owner, app = app,
    kind = g.childKind, child = g.child, rid = rid, g = g}
end

-- When an event that is accepted now has expired, in ms.
local function expiry(r, e)
  local ttl = time_to_live(r, hold)
  return math.min(e.expires or math.huge, ttl > 0 and now + ttl or math.huge)
end

-- Makes a registration due at a moment, if it is not due before.
local function attend(due, member, at)
  local before = redis.call('ZSCORE', due, member)
  if not before or moment(before) > at then redis.call('ZADD', due, num(at), member) end
end

-- Notes an event of the queue that expires by itself.
local function note_expiry(r, t, e, id)
  redis.call('ZADD', t.x, num(e.expires), id)
  local first = number(r, 'xp')
  if first == 0 or e.expires < first then put(r, 'xp', num(e.expires)) end
end

-- Puts the event into the queue of t, and claims the registration for this replica if nobody holds it. Returns the stream id and the one before it.
local function enqueue(g, e, t, r, paused)
  local prev, id = r.v[HOT.ql] or '0-0', nil
  if e.origin then
    id = redis.call('XADD', t.q, '*', 'i', e.kind .. e.part, 'a', e.author, 'b', e.body, 'w', e.origin)
  else
    id = redis.call('XADD', t.q, '*', 'i', e.kind .. e.part, 'a', e.author, 'b', e.body)
  end
  put(r, 'ql', id)
  add(r, 'c:accepted', 1); add(r, 'qn', 1); add(r, 'qb', #e.body)
  if e.expires then note_expiry(r, t, e, id) end
  if r.claimed then return id, prev end
  local holder = get(r, 'lo')
  if paused then -- held: looked at when the pause ends, or when its time is up
    if holder == '' then attend(g.s.due, t.member, math.min(number(r, 'pu'), expiry(r, e))) end
  elseif token == '' and holder == '' then -- this replica takes nothing more: whoever looks next does
    attend(g.s.due, t.member, now)
  elseif token ~= '' and vacant(r, now, token, heir) then
    r.claimed, r.over = true, holder ~= '' and '1' or ''
    put(r, 'lo', token)
    put(r, 'le', num(now + lease))
    redis.call('ZADD', g.s.due, num(now + lease), t.member)
  elseif not r.woken and string.match(holder, '^[^:]+') ~= replica then
    r.woken = true
    wake(holder, t.member)
  end
  return id, prev
end

-- An event that is not queued has its fate.
local function done(g, r, fate, handed)
  add(r, 'c:accepted', 1); add(r, 'c:' .. fate, 1)
  return fate, fate .. '\n\n\n' .. (handed and g.childKind or '')
end

-- One delivery of an event. Returns its fate, and its line of the reply: fate, stream id, the id before it, and the kind of the handoff, if it made one.
local function deliver(g, e, t)
  local r = reg_open(t.st, t.win, t.member, now, span, g.s)
  if e.wish[t.n] == 'f' then
    note(r, t, true, e, 'filtered', '', '')
    return done(g, r, 'filtered')
  end
  if t.role == 'X' then
    local h = e.kind == 'm' and hand_off(handoff_of(g, e, '', t.app, t.rid .. e.part), now, 'maintenance')
    note(r, t, false, e, 'maintenance', '', h and g.childKind or '')
    return done(g, r, 'maintenance', h)
  end
  local fate, class = 'queued', ''
  local paused = get(r, 's') == 'DOWN' and now < number(r, 'pu')
  if e.expires and e.expires <= now then
    fate = 'expired'
  elseif paused and not t.hold then
    fate, class = 'suppressed', 'suppressed'
  elseif number(r, 'qn') >= maxEvents or number(r, 'qb') + #e.body > maxBytes then
    fate = 'overflow'
  end
  if fate == 'queued' then
    local id, prev = enqueue(g, e, t, r, paused)
    return fate, 'queued\n' .. id .. '\n' .. prev .. '\n'
  end
  if fate == 'suppressed' then reg_count(r, 8, 1); add(r, 'ud', 1) end
  local h = e.kind == 'm' and t.role == 'L' and hand_off(handoff_of(g, e, t.app, t.app, t.rid .. e.part), now, fate)
  if h and in_incident(r) then add(r, 'ho', 1) end
  note(r, t, false, e, fate, class, h and g.childKind or '')
  return done(g, r, fate, h)
end

-- A delivery made once more says nothing of the conversation. Notes it with the event's first delivery; returns who owns the conversation.
local function again(e)
  redis.call('RPUSH', e.list, e.part .. ' ' .. e.app)
  redis.call('LTRIM', e.list, -100, -1)
  redis.call('PEXPIRE', e.list, records.ttl)
  local o = e.ctl and redis.call('HMGET', e.ctl, 'ot', 'oa') or {}
  return o[1] or '', o[2] or ''
end

-- Takes one event and appends its lines to reply: what became of it, and when it was stored now, one line for each target. The LIVE one comes
-- first: if it cannot be given the event nothing is stored, and if another cannot, that one goes without.
local function take(g, e, reply)
  if e.dup and not redis.call('SET', e.dup, e.part .. ' ' .. e.hash .. ' queued', 'PX', dupTTL, 'NX') then
    local part, hash, fate = string.match(redis.call('GET', e.dup), '^(%S+) (%S+) (%S+)$')
    reply[#reply + 1] = hash == e.hash and 'seen\n' .. part .. '\n' .. fate .. '\n' or 'reused'
    return
  end
  e.fresh = true
  e.admitted = false -- by the LIVE registration, or by any where none is LIVE
  for _, t in ipairs(g.targets) do
    if (e.wish[t.n] or 'q') == 'q' and (t.role == 'L' or g.live == '') and not e.origin then e.admitted = true end
  end
  local ot, oa = '', ''
  if e.origin then
    ot, oa = again(e)
  elseif e.ctl then
    ot, oa = own_event(g, e)
  end
  local at, fate = #reply + 1, ''
  for i, t in ipairs(g.targets) do
    reply[at + i] = '' -- not for this one
    if e.wish[i] ~= 'n' then
      local its, line, _ = '', ''
      if g.live == '' or t.role == 'L' then
        its, line = deliver(g, e, t)
      else
        _, its, line = alone(t.member, deliver, g, e, t)
      end
      its, reply[at + i] = its or '', line or ''
      if t.role == 'L' or t.role == 'X' or fate == '' then fate = its end
    end
  end
  -- Only monitoring bots here: nobody answers the customer.
  if g.live == '' and g.childKind == 'automatic' and e.kind == 'm' and e.admitted then
    local h = hand_off(handoff_of(g, e, '', g.targets[1].app, g.targets[1].rid .. e.part), now, 'no live bot')
    if h then reply[at + 1] = reply[at + 1] .. g.childKind end
  end
  if e.dup and fate ~= 'queued' then redis.call('SET', e.dup, e.part .. ' ' .. e.hash .. ' ' .. fate, 'PX', dupTTL) end
  reply[at] = 'ok\n' .. fate .. '\n' .. ot .. '\n' .. oa
end

local shards
shards, ki, ai = read_shards(tonumber(ARGV[ai + 1]), ki, ai + 1)

-- Reads what most events have nothing of, in lines: a letter for each target (q queued, f filtered, n not at all), when the event has expired
-- (ms), the event that it is a delivery of once more and the app that it is for, and the owner that a control event names.
-- Returns the number of the last key.
local function read_rare(g, e, rare, k)
  local wishes, expires, origin, app, ownerType, ownerApp = string.match(rare, '^(%a*)\n(%d*)\n(%w*)\n([^\n]*)\n(%a*)\n(.*)$')
  e.ownerType, e.ownerApp, e.wish = ownerType, ownerApp, {}
  for c = 1, #wishes do e.wish[c] = string.sub(wishes, c, c) end
  if expires ~= '' then
    e.expires = tonumber(expires)
    for i, t in ipairs(g.targets) do t.x = KEYS[k + i] end
    k = k + #g.targets
  end
  if origin ~= '' then
    e.origin, e.app, e.list = origin, app, KEYS[k + 1]
    k = k + 1
  end
  return k
end

local NONE = {}

-- One registration of an entity. What few events need of it is read when it is asked for.
local TARGET = {__index = function(t, field)
  t.rid, t.url, t.app = string.match(t.cold, '^([^\n]*)\n([^\n]*)\n(.*)$')
  return rawget(t, field)
end}

-- One entity, in the same way.
local GROUP = {__index = function(g, field)
  g.where, g.childKind, g.child = string.match(g.cold, '^([^\n]*)\n([^\n]*)\n(.*)$')
  return rawget(g, field)
end}

local function read_group()
  local a, k = ai, ki
  local g = {s = shards[tonumber(ARGV[a + 1])], version = ARGV[a + 2], live = ARGV[a + 3], cold = ARGV[a + 4], reg = KEYS[k + 1], own = KEYS[k + 2], told = KEYS[k + 3],
    targets = {}, events = {}, where = nil, childKind = nil, child = nil}
  setmetatable(g, GROUP)
  local n = tonumber(ARGV[a + 5])
  a, k = a + 5, k + 3
  for i = 1, n do
    local t = {n = i, st = KEYS[k + 1], win = KEYS[k + 2], q = KEYS[k + 3], ok = KEYS[k + 4], err = KEYS[k + 5],
      member = ARGV[a + 1], role = ARGV[a + 2], hold = ARGV[a + 3] == '1', cold = ARGV[a + 4], app = nil, rid = nil, url = nil}
    g.targets[i] = setmetatable(t, TARGET)
    a, k = a + 4, k + 5
  end
  n = tonumber(ARGV[a + 1])
  a = a + 1
  for i = 1, n do
    local e = {kind = ARGV[a + 1], part = ARGV[a + 2], author = ARGV[a + 3], name = ARGV[a + 4], body = ARGV[a + 5], hash = ARGV[a + 6], wish = NONE,
      ctl = nil, dup = nil, fresh = nil, admitted = nil}
    if e.author ~= '' then k = k + 1; e.ctl = KEYS[k] end
    if ARGV[a + 7] ~= '' then k = read_rare(g, e, ARGV[a + 7], k) end
    if e.hash ~= '' then k = k + 1; e.dup = KEYS[k] end
    g.events[i] = e
    a = a + 7
  end
  ki, ai = k, a
  return g
end

-- What a lane must know to begin, for each registration that this call claimed; '' for the others.
local function claims_of(g)
  local states = {}
  for n, t in ipairs(g.targets) do
    local r = R[t.st]
    states[n] = ''
    if r and r.claimed then
      r.claimed = false -- one lane for one lease
      states[n] = {reg_standing(r), window_counts(reg_window(r)), get(r, 'cut'), get(r, 'cf'), get(r, 'qn'), r.over}
    end
  end
  return states
end

local function group(g)
  if (redis.call('HGET', g.reg, 'ver') or '0') ~= g.version then return 'stale' end -- they have changed: nothing was written, load them and repeat
  local lines = {}
  for _, e in ipairs(g.events) do
    local n = #lines
    if not alone(g.reg, take, g, e, lines) then -- nothing of it is stored: it must not seem so when it comes again
      if e.fresh and e.dup then redis.call('DEL', e.dup) end
      for i = n + 1 + #g.targets, n + 1, -1 do lines[i] = nil end
      lines[n + 1] = 'sick'
    end
  end
  return {lines, claims_of(g)}
end

local reply = {num(now)}
ai = ai + 1
for i = 1, tonumber(ARGV[ai]) do
  local g = read_group()
  local ok, answer = alone(g.reg, group, g)
  reply[#reply + 1] = ok and answer or 'sick'
end
for _, r in pairs(R) do alone(r.member, reg_close, r, now) end
ledger_close(shards)
reply[#reply + 1] = SICK
return reply
