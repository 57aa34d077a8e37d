-- 1 while this term is the last one and wasn't released; also when its lease ran out and nobody took it.
-- KEYS run, lease; ARGV term, ttl ms, '1' to release
local now = redis.call('HMGET', KEYS[1], 'term', 'incarnation')
if now[1] ~= ARGV[1] or not now[2] then
  return 0
end
if ARGV[3] == '1' then
  redis.call('HDEL', KEYS[1], 'incarnation')
  redis.call('DEL', KEYS[2])
  return 1
end
if redis.call('PEXPIRE', KEYS[2], ARGV[2]) == 0 then
  redis.call('SET', KEYS[2], ARGV[1] .. ' ', 'PX', ARGV[2])
end
return 1
