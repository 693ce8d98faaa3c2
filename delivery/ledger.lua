-- Reads the ledger of one registration in one step, without writing.
-- KEYS reg st q · ARGV app
-- Returns whether the registration is there, how many events lie in its queue, and its counters.
return {redis.call('HEXISTS', KEYS[1], 'a:' .. ARGV[1]), redis.call('XLEN', KEYS[3]), redis.call('HGETALL', KEYS[2])}
