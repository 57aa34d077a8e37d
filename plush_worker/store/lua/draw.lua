-- The last of ARGV[1] new numbers, as text: a Lua number holds 53 bits, the counter 63.
-- KEYS mesh; ARGV count
if redis.call('HEXISTS', KEYS[1], 'counter') == 0 then
  return fail('NO-MESH', 'the mesh does not exist')
end
redis.call('HINCRBY', KEYS[1], 'counter', ARGV[1])
return redis.call('HGET', KEYS[1], 'counter')
