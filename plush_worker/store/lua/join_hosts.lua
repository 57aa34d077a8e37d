-- Numbers of hosts: a host seen before keeps its number and gets the newest entry, another gets the next.
-- KEYS mesh, hosts, digests, meshes; ARGV mesh id, last number allowed, then digest and entry by turns
local next_host = tonumber(redis.call('HGET', KEYS[1], 'next_host') or -1)
if next_host < 0 then
  return fail('NO-MESH', 'the mesh does not exist')
end
if redis.call('HGET', KEYS[1], 'state') == 'closing' then
  return fail('CLOSING', 'mesh ' .. ARGV[1] .. ' is being closed')
end
local first, numbers = next_host, {}
for i = 3, #ARGV, 2 do
  local number = redis.call('HGET', KEYS[3], ARGV[i])
  if not number then
    if next_host > tonumber(ARGV[2]) then
      redis.call('HSET', KEYS[1], 'next_host', next_host)
      return fail('TOO-LARGE', 'the mesh has given out all its host numbers; close it')
    end
    number = next_host
    next_host = next_host + 1
    redis.call('HSET', KEYS[3], ARGV[i], number)
  end
  redis.call('HSET', KEYS[2], number, ARGV[i + 1])
  numbers[#numbers + 1] = tonumber(number)
end
local now = now_ms()
redis.call('HSET', KEYS[1], 'last_used', now)
if next_host ~= first then
  redis.call('HSET', KEYS[1], 'next_host', next_host)
end
redis.call('ZADD', KEYS[4], now, ARGV[1])
return numbers
