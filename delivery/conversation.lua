-- Shared by the scripts that take in messages of customers.

-- Who owns the author's conversation after a message that the bot live is to have: one that nobody has yet, or a bot which is not LIVE here any more and
-- could never answer, becomes its. c: today minute now, as texts. Returns owner type and app, and what is to be written with the message, if anything is.
local function conversation(c, ctl, live, name)
  local o = redis.call('HMGET', ctl, 'ot', 'oa', 'nm', 'ts', 'day', 'lm')
  local ot, oa, known, stale, talks = o[1] or '', o[2] or '', o[4], o[5] ~= c.today, o[6] ~= c.minute
  local taken, named = live ~= '' and (ot == '' or ot == 'BOT' and oa ~= live), name ~= '' and name ~= o[3]
  if not (stale or talks or taken or named) then return ot, oa end -- nothing is new: the usual case
  local set = {}
  if taken then
    ot, oa = 'BOT', live
    set = {'ot', ot, 'oa', oa, 'ts', c.now}
  end
  if named then set[#set + 1] = 'nm'; set[#set + 1] = name end
  if known or #set > 0 then
    if stale then set[#set + 1] = 'day'; set[#set + 1] = c.today end
    if talks then set[#set + 1] = 'lm'; set[#set + 1] = c.minute end
  end
  return ot, oa, {set = set, stale = stale, talks = talks}
end

-- Writes what is new. The conversation is ongoing: that is noted to the minute, because a note costs as much as the rest. It is forgotten so long (ttl)
-- after the last event, give or take a day. what: the event's id, of which one in eight makes room in own of those that are no longer ongoing.
local function converse(ctl, own, author, what, new, ttl, ongoing, now)
  if new.talks then
    redis.call('ZADD', own, num(now), author)
    -- Never first: a removal first would let a full Redis accept.
    if string.byte(what, -1) % 8 == 0 then redis.call('ZREMRANGEBYSCORE', own, '-inf', '(' .. num(now - ongoing)) end
  end
  if #new.set == 0 then return end
  redis.call('HSET', ctl, unpack(new.set))
  if new.stale then redis.call('PEXPIRE', ctl, ttl) end
end
