-- {run, body, made} that an idempotency key stands for: what it was claimed for first.
-- KEYS key; ARGV run id, digest of the body, ttl ms
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'run', ARGV[1], 'body', ARGV[2], 'made', '0')
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return redis.call('HMGET', KEYS[1], 'run', 'body', 'made')
