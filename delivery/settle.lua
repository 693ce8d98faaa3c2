-- Settles outcomes, renews or takes the lease, and reads what comes next. Claim and renewal are the same call without outcomes.
-- KEYS due judge out outd, then as read below · ARGV as read below; each group is one registration.
-- Returns now, then for each group 'lost', or its state, its next events and the owners asked for.
-- Commit point: a crash before it delivers again; after it nothing is owed.
local ki, ai = 0, 0
local function K() ki = ki + 1; return KEYS[ki] end
local function A() ai = ai + 1; return ARGV[ai] end

local due, judge, out, outd = K(), K(), K(), K()
redis.call('ZREM', due, '') -- a removal first: a full Redis lets the rest through, so that it can drain
local now = clock()
local span, lease, shard, ctlTTL = tonumber(A()), tonumber(A()), A(), A()
local keepOK, keepErr, keepTTL = A(), A(), A()

local function log(g, o, handed)
  local ok = o.fate == 'delivered'
  local key, keep = ok and g.okLog or g.errLog, ok and keepOK or keepErr
  local f = {'i', o.uuid, 'f', o.fate, 'c', o.class, 'o', o.code, 'm', o.message, 't', o.tries, 'l', o.latency,
    'a', string.match(o.sid, '^%d+'), 'h', handed, 'u', o.url}
  if not ok then f[#f + 1] = 'p'; f[#f + 1] = o.body end
  redis.call('XADD', key, 'MAXLEN', keep, '*', unpack(f))
  redis.call('PEXPIRE', key, keepTTL)
end

-- What a failed outcome leaves behind for people.
local function note_failure(g, r, o)
  add(r.inc, 'ud', 1)
  if o.fate ~= 'failed' then return end
  local rid = g.rid .. o.uuid
  r.set.fc, r.set.fa, r.set.fr = o.class, num(now), rid
  local last, n = rid, 1
  for id in string.gmatch(r.set.f5 or r.v[16], '%S+') do
    if n < 5 then last = last .. ' ' .. id; n = n + 1 end
  end
  r.set.f5 = last
end

local function settle(g, r, o)
  if redis.call('XDEL', g.q, o.sid) == 0 then return end -- settled before: this is a repeat
  add(r.inc, 'qn', -1); add(r.inc, 'qb', -tonumber(o.size)); add(r.inc, 'c:' .. o.fate, 1)
  r.qn = r.qn - 1
  local kind = tonumber(o.kind)
  if kind >= 0 then reg_count(r, kind) end
  if o.fate == 'delivered' then r.set.la = num(now) end
  if o.fate == 'failed' or o.fate == 'suppressed' then note_failure(g, r, o) end
  local handed = ''
  if o.h and hand_off(o.h, out, outd, now, o.fate) then
    handed = o.h.kind
    add(r.inc, 'ho', 1); g.handed = g.handed + 1
  end
  log(g, o, handed)
end

-- The next events after the cursor, within the bounds asked for.
local function read_next(g, r)
  local events = {}
  if g.max == 0 then return events end
  local entries = redis.call('XRANGE', g.q, '(' .. g.cursor, '+', 'COUNT', g.max)
  local bytes = 0
  for i, entry in ipairs(entries) do
    local f = entry[2]
    events[i] = {entry[1], f[2], f[4], f[6], f[8]}
    bytes = bytes + #f[8]
    if bytes >= g.maxBytes then break end
  end
  return events
end

-- Puts the registration to rest when the lane has nothing left. What is still in the queue then (held through a pause, or overlooked)
-- becomes due again.
local function rest(g, r, events)
  if not g.mayRest or #events > 0 then return false end
  r.set.lo, r.set.le = '', '0'
  local left = redis.call('XLEN', g.q)
  if left > 0 then
    redis.call('ZADD', due, num(math.max(tonumber(r.v[3]) or 0, now + 1)), g.member)
  else
    redis.call('ZREM', due, g.member)
    if r.qn ~= 0 then r.inc.qn, r.inc.qb, r.set.qn, r.set.qb = nil, nil, '0', '0' end
  end
  return true
end

local function read_group()
  local g = {reg = K(), st = K(), win = K(), q = K(), okLog = K(), errLog = K(), own = K(), told = K(), handed = 0,
    company = A(), network = A(), external = A(),
    member = A(), rid = A(), token = A(), take = A() == '1', mayRest = A() == '1', trialFailed = A() == '1', ramp = A(),
    cursor = A(), max = tonumber(A()), maxBytes = tonumber(A()), app = A(), outcomes = {}, owners = {}}
  for i = 1, tonumber(A()) do
    local o = {sid = A(), uuid = A(), fate = A(), kind = A(), class = A(), code = A(), message = A(), tries = A(), latency = A(), url = A(),
      body = A(), size = A()}
    if A() == '1' then
      o.h = {id = shard .. '-h-' .. o.uuid, ctl = K(), own = g.own, ttl = ctlTTL, author = A(), name = A(), messageId = A(), scope = A(),
        owner = g.app, app = g.app, kind = A(), child = A(), rid = g.rid .. o.uuid, g = g}
    end
    g.outcomes[i] = o
  end
  for i = 1, tonumber(A()) do g.owners[i] = K() end
  return g
end

local function group(g)
  local r = reg_open(g.st, g.win, g.member, now, span)
  local free = r.lo == '' or r.le < now
  if r.lo ~= g.token and not (g.take and free) then return {'lost'} end
  for _, o in ipairs(g.outcomes) do settle(g, r, o) end
  if g.trialFailed and r.v[1] == 'DOWN' then r.set.tf = r.v[4]; r.v[9] = r.v[4] end
  if g.ramp ~= '' then r.set.rw = g.ramp; r.v[19] = g.ramp end
  local events = read_next(g, r)
  local rested = rest(g, r, events)
  if not rested then
    r.set.lo, r.set.le = g.token, num(now + lease)
    redis.call('ZADD', due, num(now + lease), g.member)
  end
  local owners = {}
  for i, ctl in ipairs(g.owners) do
    local o = redis.call('HMGET', ctl, 'ot', 'oa')
    owners[i] = {o[1] or '', o[2] or ''}
  end
  for i, f in ipairs(STANDING) do if r.set[f] then r.v[i] = r.set[f] end end
  r.v[17] = num((tonumber(r.v[17]) or 0) + (r.inc.ho or 0))
  r.v[18] = num((tonumber(r.v[18]) or 0) + (r.inc.ud or 0))
  local counts = window_counts(reg_window(r))
  reg_close(r, judge, now)
  R[g.st] = nil
  if rested and r.v[11] == '2' and redis.call('XLEN', g.q) == 0 then redis.call('DEL', g.st, g.win, g.q) end
  return {rested and 'rest' or 'ok', redis.call('HGET', g.reg, 'ver') or '0', r.v, counts, r.cut, r.cf, num(r.qn), events, owners, g.handed}
end

local reply = {num(now)}
for i = 1, tonumber(A()) do reply[#reply + 1] = group(read_group()) end
return reply
