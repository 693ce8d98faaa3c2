-- What is remembered of a registration between two judgements, in the hash st:
--   s state · si since · pu pausedUntil · n transition number · v verified · in incident since · ds down since · sd still-down notices
--   tf number of the transition whose trial failed · dbg debugging until · off 1 not judged, 2 deleted
--   la last acknowledged · fc fa fr class, time, request id of the last failure · f5 last failed request ids
--   ho handed off, ud undelivered, both since the incident began · rw ramp width · hd 1: holds events while DOWN · qn events waiting
--   sn number of the transition from which on the window counts: outcomes of tries that began under an earlier one belong to what was before
--   nt what is remembered of notices: whether people know of DOWN, when one was last held back, when the last ones went out
local STANDING = {'s', 'si', 'pu', 'n', 'v', 'in', 'ds', 'sd', 'tf', 'dbg', 'off', 'la', 'fc', 'fa', 'fr', 'f5', 'ho', 'ud', 'rw', 'hd', 'qn', 'nt'}

local function standing(st)
  local v = redis.call('HMGET', st, unpack(STANDING))
  for i = 1, #STANDING do v[i] = v[i] or '' end
  return v
end

-- Keeps the numbers of registrations that are not HEALTHY in led, so that nobody has to look at all of them to know.
local function note_state(led, was, is)
  if not was or was == '' then was = 'HEALTHY' end
  if was == is then return end
  if was ~= 'HEALTHY' then redis.call('HINCRBY', led, 's:' .. was, -1) end
  if is ~= 'HEALTHY' then redis.call('HINCRBY', led, 's:' .. is, 1) end
end

-- Lets people list an entry that stands in outd (id -> JSON): in told (id -> time).
-- The lists keep the last 10,000 entries; one that is still due in out is never dropped, but leaves when it is done.
local LISTED = 10000
local function outbox_list(out, outd, told, id, at)
  redis.call('ZADD', told, num(at), id)
  local over = redis.call('ZCARD', told) - LISTED
  if over > 0 then
    local old = redis.call('ZRANGE', told, over - 1, over - 1)[1] -- the one that has just gone past the end: those before it are still due
    if not redis.call('ZSCORE', out, old) then
      redis.call('ZREM', told, old)
      redis.call('HDEL', outd, old)
    end
  end
end

-- Puts an entry into the outbox: outd (# -> how many are pending), out (id -> when it is due) and, when people may list it, told.
local function outbox_put(out, outd, told, id, at, json)
  redis.call('HSET', outd, id, json)
  if redis.call('ZADD', out, num(at), id) == 1 then redis.call('HINCRBY', outd, '#', 1) end
  if told then outbox_list(out, outd, told, id, at) end
end

-- When the timer must look at the registration again: when an outcome leaves, when a pause ends over an empty window, when debugging ends.
local function judge_at(w, v)
  local at, down = window_leaves(w), v[1] == 'DOWN'
  if at > 0 and not down and (v[1] == 'HEALTHY' or v[1] == '') and window_failed(w) == 0 then at = 0 end
  if at == 0 and down then at = tonumber(v[3]) or 0 end
  local dbg = tonumber(v[10]) or 0
  if dbg > 0 and (at == 0 or dbg < at) then at = dbg end
  return at
end

-- Whether the facts and the state may be at odds, so that a transition is owed. min: the failures without an acknowledgement that count as many.
local function judge_owed(w, v, now, min)
  local a, f = w.n[1], window_failed(w)
  if v[1] == 'DOWN' then
    return a > 0 or (v[9] ~= '' and v[9] == v[4]) or (f == 0 and now >= (tonumber(v[3]) or 0))
  elseif v[1] == 'DEGRADED' then
    return f == 0 or (a == 0 and f >= min)
  end
  return f > 0 or (a > 0 and v[5] ~= '1')
end
