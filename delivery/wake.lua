-- Tells whoever holds a lease (holder: its token) that there is something to look at for a registration.
local function wake(holder, member) redis.call('PUBLISH', 'pg:wake:' .. string.match(holder, '^[^:]+'), member) end
