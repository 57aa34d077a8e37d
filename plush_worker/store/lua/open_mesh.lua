-- The id of the mesh of (slice, owner), made at first use. Its counter starts above Unix time << 32.
-- KEYS mesh ids, meshes, prefix of meshes; ARGV field in mesh ids, fresh id, slice, owner
local id = redis.call('HGET', KEYS[1], ARGV[1])
local now = now_ms()
if id then
  if redis.call('HGET', KEYS[3] .. id, 'state') == 'closing' then
    return fail('CLOSING', 'mesh ' .. id .. ' is being closed')
  end
  redis.call('HSET', KEYS[3] .. id, 'last_used', now)
  redis.call('ZADD', KEYS[2], now, id)
  return id
end
id = ARGV[2]
local counter = string.format('%.0f', tonumber(redis.call('TIME')[1]) * 4294967296)
redis.call('HSET', KEYS[3] .. id, 'slice', ARGV[3], 'owner', ARGV[4], 'state', 'standing', 'counter', counter,
  'next_host', '0', 'created_at', now, 'last_used', now)
redis.call('HSET', KEYS[1], ARGV[1], id)
redis.call('ZADD', KEYS[2], now, id)
return id
