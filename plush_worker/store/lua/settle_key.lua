-- Notes that the run of an idempotency key has been stored; nothing when the key is gone.
-- KEYS key
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('HSET', KEYS[1], 'made', '1')
end
return 1
