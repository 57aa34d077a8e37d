-- 1 when there was such a token.
-- KEYS token, tokens; ARGV id
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('DEL', KEYS[1])
