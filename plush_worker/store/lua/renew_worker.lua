-- 1, or 0 when the lease ran out, another incarnation holds it, or the data set is another one.
-- KEYS worker, store; ARGV incarnation, info, ttl ms, identity of the store
if redis.call('GET', KEYS[2]) ~= ARGV[4] or redis.call('HGET', KEYS[1], 'incarnation') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'info', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
