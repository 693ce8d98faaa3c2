-- Takes in messages for registrations whose lease this replica holds, as long as all is as it usually is: the same registrations, a bot that is
-- not DOWN, room in the queue, and a conversation of which owner, name, day and minute are noted already. From the first event of a group on that is
-- anything else, nothing is done, so that the events of an author keep their order: accept.lua takes those in.
-- KEYS led, then for each group reg st q, and for each of its events ctl, and dup where seen is given.
-- ARGV dupTTL maxEvents maxBytes groups, then for each group version live token keys events, and for each event
--   its kind and part in one, author, name, body, seen ('', or what stands under dup: part hash fate)
-- Returns now, then for each group a line of lines: the id before its first event, and for each event taken in an id behind b (the bot owns the
-- conversation) or a (an agent does), s and what stood under dup, or r where that was another body; and at last what was sick.
-- Commit point: the reply, as of accept.lua.
local KEYS, ARGV, call, try = KEYS, ARGV, redis.call, redis.pcall
local now = clock()
local today, minute = num(math.floor(now / 86400000)), num(math.floor(now / 60000))
local dupTTL, maxEvents, maxBytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local k, a = 1, 4
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

local function take(i, live, lines, st, q, v, n)
  local waiting, size, taken, added = tonumber(v[4]) or 0, tonumber(v[5]) or 0, 0, 0
  lines[1] = v[3] or '0-0'
  local last, key = v[3], k + 3
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
    call('HSET', st, 'ql', last, 'qn', num(waiting + taken), 'qb', num(size + added), 'c:accepted', num((tonumber(v[6]) or 0) + taken))
    accepted, bytes = accepted + taken, bytes + added
  end
end

local reply = {num(now)}
for g = 1, tonumber(ARGV[4]) do
  local n, lines = tonumber(ARGV[a + 5]), {}
  local st, q = KEYS[k + 2], KEYS[k + 3]
  if try('HGET', KEYS[k + 1], 'ver') == ARGV[a + 1] then
    local v = try('HMGET', st, 'lo', 's', 'ql', 'qn', 'qb', 'c:accepted')
    if v[1] == ARGV[a + 3] and v[2] ~= 'DOWN' then take(a + 5, ARGV[a + 2], lines, st, q, v, n) end
  end
  reply[g + 1] = table.concat(lines, '\n')
  k, a = k + 3 + tonumber(ARGV[a + 4]), a + 5 + 5 * n
end
if accepted > 0 then
  call('HINCRBY', KEYS[1], 'qn', num(accepted)); call('HINCRBY', KEYS[1], 'qb', num(bytes)); call('HINCRBY', KEYS[1], 'c:accepted', num(accepted))
end
reply[#reply + 1] = SICK
return reply
