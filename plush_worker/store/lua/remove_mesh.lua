-- Removes a mesh unless a live worker owns a subtree of it or it was used less than ARGV[2] ms ago.
-- KEYS mesh, hosts, digests, roots, meshes, mesh ids, prefix of subtrees, prefix of leases; ARGV mesh id, idle ms, field
local last_used = redis.call('HGET', KEYS[1], 'last_used')
if not last_used or tonumber(now_ms()) - tonumber(last_used) < tonumber(ARGV[2]) then
  return 0
end
local roots = redis.call('SMEMBERS', KEYS[4])
for _, root in ipairs(roots) do
  local owner = redis.call('HMGET', KEYS[7] .. root, 'owner', 'incarnation')
  if owner[1] and lives(KEYS[8], owner[1], owner[2]) then
    return 0
  end
end
for _, root in ipairs(roots) do
  redis.call('DEL', KEYS[7] .. root)
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
redis.call('ZREM', KEYS[5], ARGV[1])
if redis.call('HGET', KEYS[6], ARGV[3]) == ARGV[1] then
  redis.call('HDEL', KEYS[6], ARGV[3])
end
return 1
