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

-- Trailing zeros are left out: a bot that never fails has short fields.
local function packed(...)
  local t, last = {...}, 1
  for i = 1, #t do
    if t[i] ~= 0 then last = i end
  end
  for i = 1, last do t[i] = num(t[i]) end
  return table.concat(t, ' ', 1, last)
end

-- Drops the slots that have left, and finds the oldest one that remains.
local function window_expire(w)
  local edge = w.slot - SLOTS
  if w.oldest == 0 or w.oldest > edge then return end
  local k, oldest = w.oldest, 0
  while k <= w.at and oldest == 0 do
    local fields = {}
    for j = k, math.min(k + 15, w.at) do fields[#fields + 1] = num(j % SLOTS) end
    local values = redis.call('HMGET', w.key, unpack(fields))
    for i = 1, #fields do
      local abs = k + i - 1
      local t = values[i] and unpacked(values[i])
      if t and t[1] == abs then
        if abs > edge then oldest = abs; break end
        for c = 1, KINDS do w.n[c] = w.n[c] - (t[c + 1] or 0) end
        w.gone[#w.gone + 1] = fields[i]
      end
    end
    k = k + #fields
  end
  w.oldest, w.dirty = oldest, true
end

-- Reads the window as it is at now (ms), without writing. A clock that stepped back counts into the last slot seen.
local function window_open(key, now, span)
  local w = {key = key, span = span, slot = math.floor(now * SLOTS / span), oldest = 0, gone = {}, add = {}, dirty = false, n = {}}
  for c = 1, KINDS do w.n[c] = 0 end
  w.at = w.slot
  local seen = redis.call('HMGET', key, 'sum', num(w.slot % SLOTS))
  local sum = seen[1]
  w.read, w.present = w.slot, seen[2]
  if sum then
    local t = unpacked(sum)
    if t[1] == span then
      w.at, w.oldest = t[2], t[3] or 0
      for c = 1, KINDS do w.n[c] = t[3 + c] or 0 end
    else
      w.reset = true -- the window's length was changed: the old slots mean nothing now
    end
  end
  if w.slot < w.at then w.slot = w.at end
  window_expire(w)
  return w
end

-- Counts n outcomes of a kind: 0 is an acknowledgement, 1 to 8 a failure class.
local function window_count(w, kind, n)
  w.n[kind + 1] = w.n[kind + 1] + n
  w.add[kind + 1] = (w.add[kind + 1] or 0) + n
  if w.oldest == 0 then w.oldest = w.slot end
  w.counted, w.dirty = true, true
end

local function window_failed(w)
  local f = 0
  for c = 2, KINDS do f = f + w.n[c] end
  return f
end

-- When the oldest outcome leaves (ms), or 0 for an empty window.
local function window_leaves(w)
  if w.oldest == 0 then return 0 end
  return math.ceil((w.oldest + SLOTS) * w.span / SLOTS)
end

-- Writes what changed.
local function window_close(w)
  if not w.dirty then return end
  if w.reset then redis.call('DEL', w.key) end
  if #w.gone > 0 then redis.call('HDEL', w.key, unpack(w.gone)) end
  local set = {}
  if w.counted then
    local field = num(w.slot % SLOTS)
    local old = w.present
    if w.read ~= w.slot then old = redis.call('HGET', w.key, field) end -- the clock stepped back
    local t = old and unpacked(old)
    if not t or t[1] ~= w.slot then t = {w.slot} end
    for c = 1, KINDS do t[c + 1] = (t[c + 1] or 0) + (w.add[c] or 0) end
    set = {field, packed(unpack(t))}
  end
  w.at = w.slot
  redis.call('HSET', w.key, 'sum', packed(w.span, w.at, w.oldest, unpack(w.n)), unpack(set))
  redis.call('PEXPIRE', w.key, num(w.span * 2))
end

-- The counts as strings: a, f1 … f8, without trailing zeros.
local function window_counts(w)
  local t, last = {}, 1
  for c = 1, KINDS do
    if w.n[c] ~= 0 then last = c end
  end
  for c = 1, last do t[c] = num(w.n[c]) end
  return t
end
