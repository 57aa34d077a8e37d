-- Notes use of the mesh, or (ARGV[2] not empty) its new state; 0 when there is no such mesh.
-- KEYS mesh, meshes; ARGV mesh id, state
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[1], 'state', ARGV[2])
  return 1
end
local now = now_ms()
redis.call('HSET', KEYS[1], 'last_used', now)
redis.call('ZADD', KEYS[2], now, ARGV[1])
return 1
