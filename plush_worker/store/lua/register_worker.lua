-- Takes a worker's lease, also from an earlier incarnation (which learns it from its next renewal).
-- KEYS worker, workers; ARGV name, incarnation, info, ttl ms
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'incarnation', ARGV[2], 'info', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SADD', KEYS[2], ARGV[1])
return 1
