-- Takes events in: dedupes, notes who owns the conversation, queues or suppresses, and claims what is idle for this replica.
-- KEYS and ARGV as read below: limits, shards, then groups, each for one entity.
-- Returns now, then for each group: its events, and the state of every registration that this call claimed.
-- Commit point: the reply. A crash before it loses an event that nobody was told is stored; the source sends it again and its id
-- makes it one. A crash after it leaves queued events with a lease that ends: whoever looks next claims them.
local ki, ai = 0, 0
local function K() ki = ki + 1; return KEYS[ki] end
local function A() ai = ai + 1; return ARGV[ai] end

local now = clock()
local today = num(math.floor(now / 86400000))
local span, token, lease = tonumber(A()), A(), tonumber(A())
local replica = string.match(token, '^[^:]+')
local dupTTL, ctlTTL, ongoing = A(), A(), tonumber(A())
local maxEvents, maxBytes = tonumber(A()), tonumber(A())
local records = {keepOK = A(), keepErr = A(), ttl = A(), today = today}
local hold = tonumber(A())

local function note(r, t, ok, e, fate, class, handed)
  local f = {'i', e.uuid, 'f', fate, 'c', class, 'a', num(now), 'h', handed, 'u', t.url}
  if e.origin then f[#f + 1] = 'w'; f[#f + 1] = e.origin end
  log(r, ok, ok and t.ok or t.err, f, e.body, records)
end

-- The entities with new authors: there, who is no longer ongoing makes room. At the end only: a removal first would let a full Redis accept.
local newcomers = {}

-- Who owns the author's conversation after this event; writes it. Returns owner type and app.
local function own_event(g, e)
  local o = redis.call('HMGET', e.ctl, 'ot', 'oa', 'nm', 'ts', 'day')
  local ot, oa, set = o[1] or '', o[2] or '', {}
  local known = o[4]
  if e.kind == 'm' and (ot == '' or ot == 'BOT' and oa ~= g.live) and g.live ~= '' and e.admitted then
    -- nobody's yet, or that of a bot which is not LIVE here any more and could never answer
    ot, oa, set = 'BOT', g.live, {'ot', 'BOT', 'oa', g.live, 'ts', num(now)}
  elseif e.kind == 'd' then -- closed: the bot's again, and no longer ongoing
    ot, oa = (g.live ~= '' and 'BOT' or ''), g.live
    set = {'ot', ot, 'oa', oa, 'ts', num(now), 'tg', ''}
  elseif e.kind == 'c' then
    ot, oa = e.ownerType, e.ownerApp
    set = {'ot', ot, 'oa', oa, 'ts', num(now)}
    if ot == 'BOT' then set[7], set[8] = 'tg', '' end
  end
  if e.name ~= '' and e.name ~= o[3] then set[#set + 1] = 'nm'; set[#set + 1] = e.name end
  local kept, stale = known or e.kind == 'm' and e.admitted or e.kind == 'd' or e.kind == 'c', o[5] ~= today
  if stale and (known or #set > 0) then set[#set + 1] = 'day'; set[#set + 1] = today end
  if kept and #set > 0 then
    if not known then newcomers[g.own] = true end
    redis.call('HSET', e.ctl, unpack(set))
    if stale then redis.call('PEXPIRE', e.ctl, ctlTTL) end -- forgotten so long after the last event, give or take a day
  end
  if e.kind == 'm' and e.admitted then redis.call('ZADD', g.own, num(now), e.author) end
  if e.kind == 'd' then redis.call('ZREM', g.own, e.author) end
  return ot, oa
end

-- owner: the app that must own the conversation; app, rid: whose delivery it was.
local function handoff_of(g, e, owner, app, rid)
  return {id = g.s.hex .. '-h-' .. e.uuid, ctl = e.ctl, ttl = ctlTTL, author = e.author, name = e.name, messageId = e.messageId,
    scope = e.scope, owner = owner, app = app, kind = g.childKind, child = g.child, rid = rid, g = g}
end

-- When an event that is accepted now has expired, in ms.
local function expiry(r, e)
  local ttl = time_to_live(r, hold)
  return math.min(e.expires or math.huge, ttl > 0 and now + ttl or math.huge)
end

-- Makes a registration due at a moment, if it is not due before.
local function attend(r, due, member, at)
  local before = redis.call('ZSCORE', due, member)
  if not before or moment(before) > at then redis.call('ZADD', due, num(at), member) end
end

-- Puts an event into the queue, and when it expires by itself, into x. Returns its stream id.
local function enqueue(r, t, e)
  local id
  if e.origin then
    id = redis.call('XADD', t.q, '*', 'i', e.uuid, 'a', e.author, 'k', e.kind, 'b', e.body, 'w', e.origin)
  else
    id = redis.call('XADD', t.q, '*', 'i', e.uuid, 'a', e.author, 'k', e.kind, 'b', e.body)
  end
  put(r, 'ql', id)
  add(r, 'qn', 1); add(r, 'qb', #e.body)
  if e.expires then
    redis.call('ZADD', t.x, num(e.expires), id)
    local first = number(r, 'xp')
    if first == 0 or e.expires < first then put(r, 'xp', num(e.expires)) end
  end
  return id
end

-- One delivery of an event. Returns its fate, stream id, the id before it, and the kind of the handoff, if it made one.
local function deliver(g, e, t)
  local r = reg_open(t.st, t.win, t.member, now, span, g.s)
  add(r, 'c:accepted', 1)
  local function done(fate, handed) add(r, 'c:' .. fate, 1); return {fate, '', '', handed and g.childKind or ''} end
  if e.wish[t.n] == 'f' then
    note(r, t, true, e, 'filtered', '', '')
    return done('filtered')
  end
  if t.role == 'X' then
    local h = e.kind == 'm' and hand_off(handoff_of(g, e, '', t.app, t.rid .. e.uuid), now, 'maintenance')
    note(r, t, false, e, 'maintenance', '', h and g.childKind or '')
    return done('maintenance', h)
  end
  local fate, class = 'queued', ''
  local paused = get(r, 's') == 'DOWN' and now < number(r, 'pu')
  if e.expires and e.expires <= now then
    fate = 'expired'
  elseif paused and t.hold ~= '1' then
    fate, class = 'suppressed', 'suppressed'
  elseif number(r, 'qn') >= maxEvents or number(r, 'qb') + #e.body > maxBytes then
    fate = 'overflow'
  end
  if fate ~= 'queued' then
    if fate == 'suppressed' then reg_count(r, 8); add(r, 'ud', 1) end
    local h = e.kind == 'm' and t.role == 'L' and hand_off(handoff_of(g, e, t.app, t.app, t.rid .. e.uuid), now, fate)
    if h then add(r, 'ho', 1) end
    note(r, t, false, e, fate, class, h and g.childKind or '')
    return done(fate, h)
  end
  local prev = get(r, 'ql')
  if prev == '' then prev = '0-0' end
  local id = enqueue(r, t, e)
  local holder = get(r, 'lo')
  if paused then -- held: looked at when the pause ends, or when its time is up
    if holder == '' then attend(r, g.s.due, t.member, math.min(number(r, 'pu'), expiry(r, e))) end
  elseif holder == '' or number(r, 'le') < now then
    r.claimed = true
    put(r, 'lo', token)
    put(r, 'le', num(now + lease))
    redis.call('ZADD', g.s.due, num(now + lease), t.member)
  elseif string.match(holder, '^[^:]+') ~= replica and not r.woken then
    r.woken = true
    redis.call('PUBLISH', 'pg:wake:' .. string.match(holder, '^[^:]+'), t.member)
  end
  return {'queued', id, prev, ''}
end

-- A delivery made once more says nothing of the conversation. Notes it with the event's first delivery; returns who owns the conversation.
local function again(e)
  redis.call('RPUSH', e.list, e.uuid .. ' ' .. e.app)
  redis.call('LTRIM', e.list, -100, -1)
  redis.call('PEXPIRE', e.list, records.ttl)
  local o = e.ctl and redis.call('HMGET', e.ctl, 'ot', 'oa') or {}
  return o[1] or '', o[2] or ''
end

local function take(g, e)
  if e.dup then
    local seen = redis.call('GET', e.dup)
    if seen then
      local uuid, hash, fate = string.match(seen, '^(%S+) (%S+) (%S+)$')
      if hash ~= e.hash then return {'reused'} end
      return {'seen', uuid, fate}
    end
  end
  e.admitted = false -- by the LIVE registration, or by any where none is LIVE
  for _, t in ipairs(g.targets) do
    if e.wish[t.n] == 'q' and (t.role == 'L' or g.live == '') and not e.origin then e.admitted = true end
  end
  local ot, oa = '', ''
  if e.origin then
    ot, oa = again(e)
  elseif e.ctl then
    ot, oa = own_event(g, e)
  end
  local fates, fate = {}, ''
  for i, t in ipairs(g.targets) do
    if e.wish[t.n] == 'n' then
      fates[i] = {'', '', '', ''}
    else
      fates[i] = deliver(g, e, t)
      if t.role == 'L' or t.role == 'X' or fate == '' then fate = fates[i][1] end
    end
  end
  -- Only monitoring bots here: nobody answers the customer.
  if g.live == '' and g.childKind == 'automatic' and e.kind == 'm' and e.admitted then
    local h = hand_off(handoff_of(g, e, '', g.targets[1].app, g.targets[1].rid .. e.uuid), now, 'no live bot')
    if h then fates[1][4] = g.childKind end
  end
  if e.dup then redis.call('SET', e.dup, e.uuid .. ' ' .. e.hash .. ' ' .. fate, 'PX', dupTTL) end
  return {'ok', e.uuid, fate, ot, oa, fates}
end

local shards = read_shards(K, A)

local function read_group()
  local g = {s = shards[tonumber(A())], reg = K(), version = A(), own = K(), told = K(), company = A(), network = A(), external = A(),
    live = A(), childKind = A(), child = A(), targets = {}, events = {}}
  for i = 1, tonumber(A()) do
    g.targets[i] = {n = i, st = K(), win = K(), q = K(), ok = K(), err = K(), member = A(), app = A(), rid = A(),
      role = A(), hold = A(), url = A()}
  end
  for i = 1, tonumber(A()) do
    local e = {uuid = A(), kind = A(), author = A(), name = A(), messageId = A(), scope = A(), body = A(), wish = {}}
    local wishes = A()
    for c = 1, #wishes do e.wish[c] = string.sub(wishes, c, c) end
    local has = tonumber(A()) -- 1: an author, 2: a moment from which on it has expired, 4: an origin, of which it is a delivery made once more
    if has % 2 == 1 then e.ctl = K() end
    if has % 4 >= 2 then
      e.expires = tonumber(A())
      for _, t in ipairs(g.targets) do t.x = K() end
    end
    if has >= 4 then e.origin, e.app, e.list = A(), A(), K() end
    e.hash = A()
    if e.hash ~= '' then e.dup = K() end
    e.ownerType, e.ownerApp = A(), A()
    g.events[i] = e
  end
  return g
end

local reply = {num(now)}
for i = 1, tonumber(A()) do
  local g = read_group()
  if (redis.call('HGET', g.reg, 'ver') or '0') ~= g.version then
    reply[#reply + 1] = {'stale'} -- the registrations have changed: nothing was written, load them and repeat
  else
    local events, states = {}, {}
    for n, e in ipairs(g.events) do events[n] = take(g, e) end
    for n, t in ipairs(g.targets) do
      local r = R[t.st]
      if r and r.claimed then
        r.claimed = false -- one lane for one lease
        states[n] = {reg_standing(r), table.concat(window_counts(reg_window(r)), '\n'), get(r, 'cut'), get(r, 'cf'), get(r, 'qn')}
      else
        states[n] = {}
      end
    end
    reply[#reply + 1] = {'ok', events, states}
  end
end
for _, r in pairs(R) do reg_close(r, now) end
ledger_close(shards)
for own in pairs(newcomers) do redis.call('ZREMRANGEBYSCORE', own, '-inf', '(' .. num(now - ongoing)) end
return reply
