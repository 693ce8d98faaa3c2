-- Takes in messages for registrations whose lease this replica holds, or claims one that nobody does, as long as all is as it usually is: the same
-- registrations, a bot that is not DOWN (that of a claim is HEALTHY, and nothing waits for it), room in the queue. From the first event of a group on
-- that is anything else, nothing is done, so that the events of an author keep their order: accept.lua takes those in.
-- KEYS led, then for each group reg st q own win due, and for each of its events ctl, and dup where seen is given.
-- ARGV dupTTL maxEvents maxBytes window lease token (of claims) ctlTTL ongoing groups, then for each group version live token (of the lease that is held; '': a claim)
--   member keys events, and for each event its kind and part in one, author, name, body, seen ('', or what stands under dup: part hash fate)
-- Returns now, then for each group a line of lines: the id before its first event, and for each event taken in an id behind b (the bot owns the
-- conversation) or a (an agent does), s and what stood under dup, or r where that was another body. Where a lease was claimed, that with a line of lines
-- that the lane must know: stamp, acknowledgements in the window, cut, its fate, events waiting. At last what was sick.
-- Commit point: the reply, as of accept.lua.
local KEYS, ARGV, call, try = KEYS, ARGV, redis.call, redis.pcall
local now = clock()
local times = {today = num(math.floor(now / 86400000)), minute = num(math.floor(now / 60000)), now = num(now)}
local dupTTL, maxEvents, maxBytes, span, lease, claimant = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local ctlTTL, ongoing = ARGV[7], tonumber(ARGV[8])
local k, a = 1, 9
local HELD = {'lo', 's', 'ql', 'qn', 'qb', 'c:accepted'}
local FREE = {'lo', 's', 'ql', 'qn', 'qb', 'c:accepted', 'v', 'dbg', 'off', 'cut', 'cf', 'n', 'tf', 'rw', 'hd'}
-- A table: to a local of ours that functions assign to, the in-process store's Lua is not true once an error was caught.
local sum = {events = 0, bytes = 0}

-- What came before of an event that was seen: s and that, or r when it had another body. nil when it was not seen, and is noted now.
local function seen_before(dup, seen)
  if call('SET', dup, seen, 'PX', dupTTL, 'NX') then return nil end
  local before = call('GET', dup)
  if string.match(before, '^%S+ (%S+)') == string.match(seen, '^%S+ (%S+)') then return 's' .. before end
  return 'r'
end

-- Writes what is new of the conversation, and appends the event to the queue. Returns its id there.
local function append(q, what, author, body, ctl, own, new)
  if new then converse(ctl, own, author, what, new, ctlTTL, ongoing, now) end
  return call('XADD', q, '*', 'i', what, 'a', author, 'b', body)
end

-- Takes in the events from the argument i and the key on, and the lease with them where due is given. Returns how many that were.
local function take(i, key, live, lines, st, q, own, v, n, due, member)
  local waiting, size, taken, added, last = tonumber(v[4]) or 0, tonumber(v[5]) or 0, 0, 0, v[3]
  lines[1] = last or '0-0'
  for e = 2, n + 1 do
    local author, name, body, seen = ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]
    if waiting + taken >= maxEvents or size + added + #body > maxBytes then break end
    local ctl = KEYS[key + 1]
    local ok, owner, _, new = pcall(conversation, times, ctl, live, name)
    if not ok or owner ~= 'BOT' and owner ~= 'AGENT' then break end
    local dup = seen ~= '' and KEYS[key + 2]
    local known, before = true, nil
    if dup then known, before = alone(dup, seen_before, dup, seen) end
    if not known then break end
    if before then
      lines[e] = before
    else
      local stored, id = alone(q, append, q, ARGV[i + 1], author, body, ctl, own, new)
      if not stored then -- it must not seem so
        if dup then call('DEL', dup) end
        break
      end
      lines[e], last, taken, added = (owner == 'BOT' and 'b' or 'a') .. id, id, taken + 1, added + #body
    end
    i, key = i + 5, dup and key + 2 or key + 1
  end
  if taken > 0 then
    local set = {'ql', last, 'qn', num(waiting + taken), 'qb', num(size + added), 'c:accepted', num((tonumber(v[6]) or 0) + taken)}
    if due then
      local ends = num(now + lease)
      set[9], set[10], set[11], set[12] = 'lo', claimant, 'le', ends
      call('ZADD', due, ends, member)
    end
    call('HSET', st, unpack(set))
    sum.events, sum.bytes = sum.events + taken, sum.bytes + added
  end
  return taken
end

-- Whether nobody holds the lease, and nothing but an acknowledgement could follow.
local function is_free(v)
  return (v[1] or '') == '' and v[2] == 'HEALTHY' and (v[4] or '0') == '0' and v[7] == '1' and (v[8] or '0') == '0' and (v[9] or '') == ''
end

-- What a lane must know to begin. Of the standing it is the stamp of settle.lua: all else follows from the bot's being well.
local function lane_of(v, w, waiting)
  local stamp = (v[12] or '') .. ' ' .. (v[13] or '') .. ' ' .. (v[8] or '') .. '  ' .. (v[14] or '') .. ' ' .. (v[15] or '')
  return stamp .. '\n' .. num(w.n[1]) .. '\n' .. (v[10] or '') .. '\n' .. (v[11] or '') .. '\n' .. num(waiting)
end

-- Takes in events of a registration and claims it. Returns the group's reply, or nil.
local function begin(i, key, live, st, q, own, n, win, due, member)
  local v = try('HMGET', st, unpack(FREE))
  local w = claimant ~= '' and is_free(v) and window_calm(win, now, span)
  if not w then return nil end
  local lines = {}
  local taken = take(i, key, live, lines, st, q, own, v, n, due, member)
  lines = table.concat(lines, '\n')
  return taken > 0 and {lines, lane_of(v, w, taken)} or lines
end

-- Takes in events of a registration that is held. Returns the group's reply, or nil, and whether nobody holds it.
local function go_on(i, key, live, st, q, own, n, token)
  local v, lines = try('HMGET', st, unpack(HELD)), {}
  if v[1] ~= token or v[2] == 'DOWN' then return nil, v[1] == '' end
  take(i, key, live, lines, st, q, own, v, n)
  return table.concat(lines, '\n'), false
end

local reply = {num(now)}
for g = 1, tonumber(ARGV[9]) do
  local live, token, keys, n, st, q, own = ARGV[a + 2], ARGV[a + 3], tonumber(ARGV[a + 5]), tonumber(ARGV[a + 6]), KEYS[k + 2], KEYS[k + 3], KEYS[k + 4]
  local answer, free = nil, token == ''
  if try('HGET', KEYS[k + 1], 'ver') == ARGV[a + 1] then
    if not free then answer, free = go_on(a + 6, k + 6, live, st, q, own, n, token) end -- the lane may have given it back a moment ago
    if free then answer = begin(a + 6, k + 6, live, st, q, own, n, KEYS[k + 5], KEYS[k + 6], ARGV[a + 4]) end
  end
  reply[g + 1] = answer or ''
  k, a = k + 6 + keys, a + 6 + 5 * n
end
if sum.events > 0 then
  call('HINCRBY', KEYS[1], 'qn', num(sum.events)); call('HINCRBY', KEYS[1], 'qb', num(sum.bytes)); call('HINCRBY', KEYS[1], 'c:accepted', num(sum.events))
end
reply[#reply + 1] = SICK
return reply
