-- The identity of this data set, made at first use.
-- KEYS store; ARGV fresh identity
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
