-- The infos of the workers whose lease lives, by name; forgets the others.
-- KEYS workers, prefix of leases
local found = {}
local names = redis.call('SMEMBERS', KEYS[1])
table.sort(names)
for _, name in ipairs(names) do
  local info = redis.call('HGET', KEYS[2] .. name, 'info')
  if info then
    found[#found + 1] = info
  else
    redis.call('SREM', KEYS[1], name)
  end
end
return found
