-- {{field, value, ...}, 1 when its owner lives}, ... of a mesh.
-- KEYS roots, prefix of subtrees, prefix of leases
local found = {}
for _, root in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local key = KEYS[2] .. root
  local owner = redis.call('HMGET', key, 'owner', 'incarnation')
  if owner[1] then
    found[#found + 1] = {redis.call('HGETALL', key), lives(KEYS[3], owner[1], owner[2]) and 1 or 0}
  end
end
return found
