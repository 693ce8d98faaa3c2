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

local function note(r, t, ok, e, fate, class, handed)
  local f = {'i', e.uuid, 'f', fate, 'c', class, 'a', num(now), 'h', handed, 'u', t.url}
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
  if paused and t.hold ~= '1' then
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
  local id = redis.call('XADD', t.q, '*', 'i', e.uuid, 'a', e.author, 'k', e.kind, 'b', e.body)
  put(r, 'ql', id)
  add(r, 'qn', 1); add(r, 'qb', #e.body)
  local holder = get(r, 'lo')
  if paused then -- held: looked at when the pause ends
    if holder == '' then redis.call('ZADD', g.s.due, get(r, 'pu'), t.member) end
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
    if e.wish[t.n] ~= 'f' and (t.role == 'L' or g.live == '') then e.admitted = true end
  end
  local ot, oa = '', ''
  if e.ctl then ot, oa = own_event(g, e) end
  local fates, fate = {}, ''
  for i, t in ipairs(g.targets) do
    fates[i] = deliver(g, e, t)
    if t.role == 'L' or t.role == 'X' or fate == '' then fate = fates[i][1] end
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
    if A() == '1' then e.ctl = K() end
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
