-- Reads standings and counts without writing.
-- KEYS st win, for each registration · ARGV span
-- Returns now, then standing and counts of each; for one that cannot be read twice nothing.
local now, span = clock(), tonumber(ARGV[1])
local r = {num(now)}
for i = 1, #KEYS, 2 do
  local ok, st, counts = pcall(function() return standing(KEYS[i]), window_counts(window_open(KEYS[i + 1], now, span)) end)
  r[#r + 1], r[#r + 2] = ok and st or '', ok and counts or ''
end
return r
