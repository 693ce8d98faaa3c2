-- Reads standings and counts without writing.
-- KEYS st win, for each registration · ARGV span
-- Returns now, then standing and counts of each.
local now, span = clock(), tonumber(ARGV[1])
local r = {num(now)}
for i = 1, #KEYS, 2 do
  r[#r + 1] = standing(KEYS[i])
  r[#r + 1] = window_counts(window_open(KEYS[i + 1], now, span))
end
return r
