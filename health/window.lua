-- The window of one registration: a hash with a packed field for each of the 120 slots, and the packed running sums.
--   "sum"       span at oldest a f1 … f8     span: the window in ms; at: the last slot seen; oldest: the oldest slot in use, 0 for none
--   "0".."119"  slot a f1 … f8               under slot % 120
-- Counting reads and writes two fields however much traffic there is; each slot that leaves is subtracted once.
-- These functions only count. What the counts mean is decided in Go.

local SLOTS, KINDS = 120, 9

local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function num(n) return string.format('%d', n) end

local function unpacked(s)
  local t = {}
  for n in string.gmatch(s, '%d+') do t[#t + 1] = tonumber(n) end
  return t
end

-- The counts n, of which f are failures, without trailing zeros: a bot that never fails has short fields.
local function counts_text(n, f)
  if f == 0 then return num(n[1]) end
  local last = KINDS
  while n[last] == 0 do last = last - 1 end
  return table.concat(n, ' ', 1, last)
end

-- Drops the slots that have left, and finds the oldest one that remains.
local function window_expire(w)
  local edge = w.slot - SLOTS
  if w.oldest == 0 or w.oldest > edge then return end
  local k, oldest = math.max(w.oldest, w.at - SLOTS + 1), 0 -- whatever stands there: as far as the window is long, and no further
  while k <= w.at and oldest == 0 do
    local fields = {}
    for j = k, math.min(k + 15, w.at) do fields[#fields + 1] = num(j % SLOTS) end
    local values = redis.call('HMGET', w.key, unpack(fields))
    for i = 1, #fields do
      local abs = k + i - 1
      local t = values[i] and unpacked(values[i])
      if t and t[1] == abs then
        if abs > edge then oldest = abs; break end
        for c = 1, #t - 1 do w.n[c] = w.n[c] - t[c + 1] end
        for c = 3, #t do w.f = w.f - t[c] end
        w.gone = w.gone or {}
        w.gone[#w.gone + 1] = fields[i]
      end
    end
    k = k + #fields
  end
  w.oldest, w.dirty = oldest, true
end

-- Reads the window as it is at now (ms), without writing. A clock that stepped back counts into the last slot seen.
local function window_open(key, now, span)
  local slot = math.floor(now * SLOTS / span)
  local seen = redis.call('HMGET', key, 'sum', num(slot % SLOTS))
  local n = {0, 0, 0, 0, 0, 0, 0, 0, 0}
  local w = {key = key, span = span, slot = slot, at = slot, oldest = 0, read = slot, present = seen[2], n = n, f = 0, add = nil, added = 0, gone = nil,
    dirty = false, counted = false, reset = false, lives = true}
  if not seen[1] then
    w.lives = false
    return w
  end
  local length, at, oldest, counts = string.match(seen[1], '^(%d+) (%d+) ?(%d*) ?(.*)$')
  if tonumber(length) ~= span then
    w.reset = true -- the window's length was changed: the old slots mean nothing now
    return w
  end
  w.at, w.oldest, n[1] = tonumber(at), tonumber(oldest) or 0, tonumber(counts) or 0
  if not tonumber(counts) then -- there are failures
    for c, k in ipairs(unpacked(counts)) do n[c] = k end
    for c = 2, KINDS do w.f = w.f + n[c] end
  end
  if slot < w.at then w.slot = w.at end
  window_expire(w)
  return w
end

-- The window anew, where nobody can read what stands there: it holds two minutes, and nothing else can heal it.
local function window_anew(key, now, span)
  redis.call('DEL', key)
  return window_open(key, now, span)
end

-- Counts n outcomes of a kind: 0 is an acknowledgement, 1 to 8 a failure class.
local function window_count(w, kind, n)
  w.n[kind + 1] = w.n[kind + 1] + n
  if not w.add then w.add = {0, 0, 0, 0, 0, 0, 0, 0, 0} end
  w.add[kind + 1] = w.add[kind + 1] + n
  if kind > 0 then w.f, w.added = w.f + n, w.added + n end -- added: failures in add
  if w.oldest == 0 then w.oldest = w.slot end
  w.counted, w.dirty = true, true
end

local function window_failed(w) return w.f end

-- When the oldest outcome leaves (ms), or 0 for an empty window.
local function window_leaves(w)
  if w.oldest == 0 then return 0 end
  return math.ceil((w.oldest + SLOTS) * w.span / SLOTS)
end

-- Lets the key live twice as long as the window, which once in a quarter of it is enough. at: the last slot seen before.
local function window_live(w, at)
  if not w.lives or math.floor(w.slot * 4 / SLOTS) ~= math.floor(at * 4 / SLOTS) then redis.call('PEXPIRE', w.key, num(w.span * 2)) end
end

-- Writes what changed. The window goes when its last slot has long left.
local function window_close(w)
  if not w.dirty then return end
  local at = w.at
  if w.reset then
    redis.call('DEL', w.key)
    w.lives = false
  end
  if w.gone then redis.call('HDEL', w.key, unpack(w.gone)) end
  w.at = w.slot
  local sum = num(w.span) .. ' ' .. num(w.at) .. ' ' .. num(w.oldest) .. ' ' .. counts_text(w.n, w.f)
  if not w.counted then
    redis.call('HSET', w.key, 'sum', sum)
    return window_live(w, at)
  end
  local field, old = num(w.slot % SLOTS), w.present
  if w.read ~= w.slot then old = redis.call('HGET', w.key, field) end -- the clock stepped back
  local t = old and not w.reset and unpacked(old)
  if t and t[1] == w.slot then
    for c = 1, #t - 1 do w.add[c] = w.add[c] + t[c + 1] end
    for c = 3, #t do w.added = w.added + t[c] end
  end
  redis.call('HSET', w.key, 'sum', sum, field, num(w.slot) .. ' ' .. counts_text(w.add, w.added))
  window_live(w, at)
end

local function window_read_calm(key, now, span)
  local slot = math.floor(now * SLOTS / span)
  local field = num(slot % SLOTS)
  local seen = redis.call('HMGET', key, 'sum', field)
  if not seen[1] then return nil end
  local length, at, oldest, total = string.match(seen[1], '^(%d+) (%d+) (%d+) (%d+)$')
  if not total or tonumber(length) ~= span or slot < tonumber(at) then return nil end
  local w = {key = key, slot = slot, field = field, at = tonumber(at), oldest = tonumber(oldest), n = {tonumber(total), 0, 0, 0, 0, 0, 0, 0, 0}, f = 0, span = span, gone = nil, dirty = false, lives = true}
  w.own = seen[2] and string.match(seen[2], '^' .. num(slot) .. ' (%d+)$')
  window_expire(w)
  return w
end

-- The window as it nearly always is: nothing in it failed. nil when it is not so, or when it cannot be read: who opens it as any window mends that.
local function window_calm(key, now, span)
  local ok, w = pcall(window_read_calm, key, now, span)
  return ok and w or nil
end

-- Counts n acknowledgements into a calm window.
local function window_acknowledge(w, n)
  w.n[1] = w.n[1] + n
  if w.oldest == 0 then w.oldest = w.slot end
  if w.gone then redis.call('HDEL', w.key, unpack(w.gone)) end
  redis.call('HSET', w.key, 'sum', num(w.span) .. ' ' .. num(w.slot) .. ' ' .. num(w.oldest) .. ' ' .. num(w.n[1]), w.field, num(w.slot) .. ' ' .. num((tonumber(w.own) or 0) + n))
  window_live(w, w.at)
end

-- The counts as one text: a f1 … f8, without trailing zeros.
local function window_counts(w) return counts_text(w.n, w.f) end
