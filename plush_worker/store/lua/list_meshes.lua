-- For each mesh, by last use: {id, {field, value, ...}, number of hosts, {{members, up, owner, 1 when it lives}, ...}}
-- KEYS meshes, prefix of meshes, of hosts, of roots, of subtrees, of leases
local found = {}
for _, id in ipairs(redis.call('ZREVRANGE', KEYS[1], 0, 999)) do
  local subtrees = {}
  for _, root in ipairs(redis.call('SMEMBERS', KEYS[4] .. id)) do
    local record = redis.call('HMGET', KEYS[5] .. id .. ':' .. root, 'members', 'up', 'owner', 'incarnation')
    if record[1] then
      subtrees[#subtrees + 1] = {record[1], record[2], record[3], lives(KEYS[6], record[3], record[4]) and 1 or 0}
    end
  end
  found[#found + 1] = {id, redis.call('HGETALL', KEYS[2] .. id), redis.call('HLEN', KEYS[3] .. id), subtrees}
end
return found
