-- Shared by the scripts that keep the ledger. R caches the registrations that one call touches: each is read once and written once.

local R = {}

-- What a script nearly always needs of st is read at once: read_hot does that, and HOT says where each field stands in the reply.
-- xp: when the first event of x has expired · tl: the registration's time to live.
local HOT, read_hot

-- All else that is asked for, read when the first of it is.
local COLD = {'de', 'do', 'cut', 'cf', 'xp', 'tl', 'lo', 'le', 'ql'}

-- The shards that a call touches: one on a cluster, where a script has one slot; any number on a single server.
local function read_shards(n, ki, ai)
  local shards, KEYS, ARGV = {}, KEYS, ARGV
  for i = 1, n do
    shards[i] = {due = KEYS[ki + 1], judge = KEYS[ki + 2], out = KEYS[ki + 3], outd = KEYS[ki + 4], led = KEYS[ki + 5], hex = ARGV[ai + i]}
    ki = ki + 5
  end
  return shards, ki, ai + n
end

-- Opens the registration behind the keys of its standing and window, in shard s. v: what was read; set: what is to be written; inc: what is
-- to be added. The fields named with nil make room for what comes.
local function reg_open(st, win, member, now, span, s)
  local r = R[st]
  if r then return r end
  local v = read_hot(st)
  r = {st = st, win = win, member = member, v = v, set = {lo = nil, le = nil, ql = nil, la = nil}, inc = {qn = nil, qb = nil, c = nil, d = nil}, now = now,
    span = span, s = s, debug = false, w = nil, counted = nil, claimed = nil, woken = nil, over = nil}
  R[st] = r
  local dbg = v[HOT.dbg] and tonumber(v[HOT.dbg]) or 0
  r.debug = dbg > now
  if dbg > 0 and dbg <= now then -- debugging has run out: the window starts empty
    redis.call('DEL', win)
    r.set.dbg, r.set.v = '0', '0'
    v[HOT.dbg] = ''
    v[HOT.v or 'v'] = '0'
  end
  return r
end

-- Reads what is not known yet, of what can be asked for.
local function read_cold(r)
  local v, cold = r.v, {}
  for _, list in ipairs({STANDING, COLD}) do
    for _, f in ipairs(list) do
      if not HOT[f] and not v[f] then cold[#cold + 1] = f end
    end
  end
  for i, value in ipairs(redis.call('HMGET', r.st, unpack(cold))) do v[cold[i]] = value or '' end
end

-- A field as it will be when the call has ended; '' for one that is not there.
local function get(r, field)
  local at = HOT[field]
  local x = r.v[at or field]
  if not x then
    if at then
      x = ''
    else
      read_cold(r)
      x = r.v[field]
    end
  end
  local more = r.inc[field]
  if more then return num((tonumber(x) or 0) + more) end
  return x
end

local function number(r, field)
  local at = HOT[field]
  if at then return (r.v[at] and tonumber(r.v[at]) or 0) + (r.inc[field] or 0) end
  return tonumber(get(r, field)) or 0
end

-- A field is written or added to by one call, not both.
local function put(r, field, value)
  r.v[HOT[field] or field] = value
  r.set[field] = value
end

-- A score as a number. The in-process store writes round ones as 2e+12, which its Lua reads only as 2.0e+12.
local function moment(score) return tonumber(score) or tonumber((string.gsub(score, 'e', '.0e'))) end

-- Whether token may take the lease: nobody has it, it has run out, or its holder was the same gateway before it was started again (heir:
-- what the names of both begin with; '': that is not known, or too long ago to matter).
local function vacant(r, now, token, heir)
  local holder = get(r, 'lo')
  if holder == '' or number(r, 'le') < now then return true end
  return heir ~= '' and string.match(holder, '^([^.:]+)%.') == heir and string.match(holder, '^[^:]+') ~= string.match(token, '^[^:]+')
end

-- How long an event may wait for its first try (ms), as its registration says, or 0. What is held never waits for ever.
local function time_to_live(r, hold)
  local ttl = number(r, 'tl')
  if ttl == 0 and get(r, 'hd') == '1' then return hold end
  return ttl
end

-- What this call adds to the ledger of the store, and which fields of st are in it. Whatever is deleted later, the ledger keeps it.
local LEDGER, TOTAL = {qn = true, qb = true, ['c:accepted'] = true, ['c:delivered'] = true, ['c:failed'] = true, ['c:suppressed'] = true, ['c:maintenance'] = true,
  ['c:overflow'] = true, ['c:expired'] = true, ['c:withdrawn'] = true, ['c:filtered'] = true}, {}

-- Writes it, once for a call: into the ledger of the first shard that it touches, because only the sum over all shards means anything.
local function ledger_close(shards)
  for f, n in pairs(TOTAL) do
    if n ~= 0 then redis.call('HINCRBY', shards[1].led, f, num(n)) end
  end
end

-- Takes a registration's keys out when the last of its events has its fate. Its counters (c:…) go into led, as those of the gone (g:…).
local function reg_gone(led, st, win, q)
  local all = redis.call('HGETALL', st)
  for i = 1, #all, 2 do
    local fate = string.match(all[i], '^c:(.+)$')
    if fate then redis.call('HINCRBY', led, 'g:' .. fate, all[i + 1]) end
  end
  redis.call('DEL', st, win, q)
end

-- Adds to a field, when all is written.
local function add(r, field, n) r.inc[field] = (r.inc[field] or 0) + n end

-- Whether an incident is under way.
local function in_incident(r) return number(r, 'in') > 0 end

-- The window, opened when it is first needed.
local function reg_window(r)
  if r.w then return r.w end
  local ok, w = alone(r.member, window_open, r.win, r.now, r.span)
  if not ok then w = window_anew(r.win, r.now, r.span) end
  r.w = w
  return w
end

-- Counts an outcome into the window, unless the registration is not judged now. kind and n as in window_count.
local function reg_count(r, kind, n)
  if get(r, 'off') ~= '' or r.debug then return end
  window_count(reg_window(r), kind, n)
  r.counted = true
end

-- A log goes so long after its last record, give or take a day. keep: keepOK keepErr ttl today.
local function log_lives(r, key, day, keep)
  if get(r, day) == keep.today then return false end
  redis.call('PEXPIRE', key, keep.ttl)
  put(r, day, keep.today)
  return true
end

-- Writes a request record into the log of failures, with the event's body. Once a day those go that are a day younger than the log may be.
local function log(r, key, f, body, keep)
  f[#f + 1] = 'p'; f[#f + 1] = body
  redis.call('XADD', key, 'MAXLEN', keep.keepErr, '*', unpack(f))
  if log_lives(r, key, 'de', keep) then redis.call('XTRIM', key, 'MINID', num(r.now - tonumber(keep.ttl) + 86400000)) end
end

-- Writes request records that need no attention: a list, the newest first, which may be a little longer than it must be.
-- Each is a line of lines: completed size part fate class code tries latency accepted handed origin again url message
local function log_ok(r, key, records, keep)
  if redis.call('LPUSH', key, unpack(records)) > keep.keepOK + 64 then redis.call('LTRIM', key, 0, keep.keepOK - 1) end
  log_lives(r, key, 'do', keep)
end

-- The standing alone, as replies carry it.
local function reg_standing(r)
  local all = {}
  for i, f in ipairs(STANDING) do all[i] = get(r, f) end
  return table.concat(all, '\n')
end

local NOTHING = {}

-- Writes what changed, and asks the timer to judge within a second in case nobody lives to do it at once. What was added, once it is written, is
-- in the ledger of the store as well.
local function reg_close(r, now)
  local v, inc, n = r.v, r.inc, 0
  local set = {'', '', '', '', '', '', '', '', '', '', '', '', '', '', '', ''} -- as long as it usually gets
  for f, x in pairs(r.set) do
    set[n + 1], set[n + 2] = f, x
    n = n + 2
  end
  for f, more in pairs(inc) do
    local at = HOT[f]
    if at then
      set[n + 1], set[n + 2] = f, num((v[at] or 0) + more)
      n = n + 2
    else
      redis.call('HINCRBY', r.st, f, num(more))
    end
  end
  if n > 0 then redis.call('HSET', r.st, unpack(set, 1, n)) end
  r.set, r.inc = NOTHING, NOTHING -- should what follows fail, it is not written again
  for f, more in pairs(inc) do
    if LEDGER[f] then TOTAL[f] = (TOTAL[f] or 0) + more end
  end
  local w = r.w
  if w then window_close(w) end
  if r.counted and (w.f > 0 or get(r, 's') ~= 'HEALTHY' or get(r, 'v') ~= '1') then
    redis.call('ZADD', r.s.judge, num(now + 1000), r.member)
  end
end

-- Gives the author's conversation to the agents, if it is the app's or nobody's. Returns whether it did.
-- h: id ctl ttl · author name, messageId scope or the event's body that they are read from · owner (the app that must own it, '' for any bot) · app kind child rid
-- g: where (the members of a JSON object that name the entity) told s
local function hand_off(h, now, reason)
  local o = redis.call('HMGET', h.ctl, 'ot', 'oa')
  local owner = o[1] or ''
  if owner == 'AGENT' or (owner == 'BOT' and h.owner ~= '' and o[2] ~= h.owner) then return false end
  redis.call('HSET', h.ctl, 'ot', 'AGENT', 'oa', '', 'ts', num(now), 'tg', 'Bot Handoff\n' .. h.child)
  redis.call('PEXPIRE', h.ctl, h.ttl)
  if h.body then
    local ev = cjson.decode(h.body)
    local at = type(ev.coordinate) == 'table' and ev.coordinate or {}
    h.messageId, h.scope = type(at.messageId) == 'string' and at.messageId or '', at.scope == 'PUBLIC' and 'PUBLIC' or 'PRIVATE'
  end
  local entry = cjson.encode({id = h.id, kind = 'handoff', appId = h.app, at = now, state = 'pending', data = {kind = h.kind, author = h.author,
    authorName = h.name, messageId = h.messageId, scope = h.scope, owner = {type = 'AGENT'}, requestId = h.rid, reason = reason}})
  outbox_put(h.g.s.out, h.g.s.outd, h.g.told, h.id, now, '{' .. h.g.where .. ',' .. string.sub(entry, 2))
  return true
end
