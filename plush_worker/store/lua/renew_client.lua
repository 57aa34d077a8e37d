-- 0 when there is no such run.
-- KEYS run, client; ARGV ttl ms
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.call('SET', KEYS[2], '1', 'PX', ARGV[1])
return 1
