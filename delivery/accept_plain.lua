-- Takes in messages for registrations whose lease this replica holds, or claims one that nobody does, as long as all is as it usually is: the same
-- registrations, a bot that is not DOWN (that of a claim is HEALTHY, and nothing waits for it), room in the queue, and a conversation of which owner,
-- name, day and minute are noted already. From the first event of a group on that is anything else, nothing is done, so that the events of an author
-- keep their order: accept.lua takes those in.
-- KEYS led, then for each group reg st q, win and due for a claim, and for each of its events ctl, and dup where seen is given.
-- ARGV dupTTL maxEvents maxBytes window lease token (of claims) groups, then for each group version live token (of the lease that is held; '': a claim)
--   member keys events, and for each event its kind and part in one, author, name, body, seen ('', or what stands under dup: part hash fate)
-- Returns now, then for each group a line of lines: the id before its first event, and for each event taken in an id behind b (the bot owns the
-- conversation) or a (an agent does), s and what stood under dup, or r where that was another body. Where a lease was claimed, that with what the
-- lane must know: standing, acknowledgements in the window, cut, its fate, events waiting. At last what was sick.
-- Commit point: the reply, as of accept.lua.
local KEYS, ARGV, call, try = KEYS, ARGV, redis.call, redis.pcall
local now = clock()
local today, minute = num(math.floor(now / 86400000)), num(math.floor(now / 60000))
local dupTTL, maxEvents, maxBytes, span, lease, claimant = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local k, a = 1, 7
local HELD = {'lo', 's', 'ql', 'qn', 'qb', 'c:accepted'}
local FREE = {'lo', 's', 'ql', 'qn', 'qb', 'c:accepted', 'v', 'dbg', 'off', 'cut', 'cf', unpack(STANDING)}
local accepted, bytes = 0, 0

-- Who owns the author's conversation, if nothing of it is new; else nil.
local function owner_of(ctl, live, name)
  local o = try('HMGET', ctl, 'ot', 'oa', 'nm', 'day', 'lm')
  if o[4] ~= today or o[5] ~= minute or name ~= '' and name ~= o[3] then return nil end -- an error has none of it
  if o[1] == 'AGENT' then return 'a' end
  return o[1] == 'BOT' and o[2] == live and 'b'
end

-- What came before of an event that was seen: s and that, or r when it had another body. nil when it was not seen, and is noted now.
local function seen_before(dup, seen)
  if call('SET', dup, seen, 'PX', dupTTL, 'NX') then return nil end
  local before = call('GET', dup)
  if string.match(before, '^%S+ (%S+)') == string.match(seen, '^%S+ (%S+)') then return 's' .. before end
  return 'r'
end

-- Appends an event to the queue. When nobody can append to that, it is not stored, and must not seem so.
local function append(q, what, author, body, dup)
  local id = try('XADD', q, '*', 'i', what, 'a', author, 'b', body)
  if type(id) ~= 'table' then return id end
  if dup then call('DEL', dup) end
  note_sick(q, id)
  return nil
end

-- Takes in the events from the argument i and the key on, and the lease with them where due is given. Returns how many that were.
local function take(i, key, live, lines, st, q, v, n, due, member)
  local waiting, size, taken, added, last = tonumber(v[4]) or 0, tonumber(v[5]) or 0, 0, 0, v[3]
  lines[1] = last or '0-0'
  for e = 2, n + 1 do
    local author, name, body, seen = ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]
    local owner = waiting + taken < maxEvents and size + added + #body <= maxBytes and owner_of(KEYS[key + 1], live, name)
    if not owner then break end
    local dup = seen ~= '' and KEYS[key + 2]
    local before = dup and seen_before(dup, seen)
    local id = not before and append(q, ARGV[i + 1], author, body, dup)
    if not before and not id then break end
    lines[e] = before or owner .. id
    if id then last, taken, added = id, taken + 1, added + #body end
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
    accepted, bytes = accepted + taken, bytes + added
  end
  return taken
end

-- Whether nobody holds the lease, and nothing but an acknowledgement could follow.
local function is_free(v)
  return (v[1] or '') == '' and v[2] == 'HEALTHY' and (v[4] or '0') == '0' and v[7] == '1' and (v[8] or '0') == '0' and (v[9] or '') == ''
end

-- What a lane must know to begin.
local function lane_of(v, w, lines, waiting)
  local all = {}
  for i, f in ipairs(STANDING) do all[i] = f == 'qn' and waiting or v[i + 11] or '' end
  return {lines, table.concat(all, '\n'), num(w.n[1]), v[10] or '', v[11] or '', waiting}
end

-- Takes in events of a registration and claims it. Returns the group's reply, or nil.
local function begin(i, key, live, st, q, n, win, due, member)
  local v = try('HMGET', st, unpack(FREE))
  local w = is_free(v) and window_calm(win, now, span)
  if not w then return nil end
  local lines = {}
  local taken = take(i, key, live, lines, st, q, v, n, due, member)
  lines = table.concat(lines, '\n')
  return taken > 0 and lane_of(v, w, lines, num(taken)) or lines
end

-- Takes in events of a registration that is held. Returns the group's reply, or nil.
local function go_on(i, key, live, st, q, n, token)
  local v, lines = try('HMGET', st, unpack(HELD)), {}
  if v[1] ~= token or v[2] == 'DOWN' then return nil end
  take(i, key, live, lines, st, q, v, n)
  return table.concat(lines, '\n')
end

local reply = {num(now)}
for g = 1, tonumber(ARGV[7]) do
  local live, token, keys, n, st, q, answer = ARGV[a + 2], ARGV[a + 3], tonumber(ARGV[a + 5]), tonumber(ARGV[a + 6]), KEYS[k + 2], KEYS[k + 3]
  local held = token ~= ''
  if try('HGET', KEYS[k + 1], 'ver') == ARGV[a + 1] then
    if held then
      answer = go_on(a + 6, k + 3, live, st, q, n, token)
    else
      answer = begin(a + 6, k + 5, live, st, q, n, KEYS[k + 4], KEYS[k + 5], ARGV[a + 4])
    end
  end
  reply[g + 1] = answer or ''
  k, a = k + (held and 3 or 5) + keys, a + 6 + 5 * n
end
if accepted > 0 then
  call('HINCRBY', KEYS[1], 'qn', num(accepted)); call('HINCRBY', KEYS[1], 'qb', num(bytes)); call('HINCRBY', KEYS[1], 'c:accepted', num(accepted))
end
reply[#reply + 1] = SICK
return reply
