-- Stores a token: 1, also when this very token is there; 0 when its id is another's; -1 when there are too many.
-- KEYS token, tokens; ARGV id, limit, ttl ms (0: never expires), ms that an expired one is kept, 'digest', digest,
-- field, value, ...
local digest = redis.call('HGET', KEYS[1], 'digest')
if digest then
  return digest == ARGV[6] and 1 or 0
end
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[2]) then
  return -1
end
local now = now_ms()
local expires = '0'
if ARGV[3] ~= '0' then
  expires = string.format('%.0f', tonumber(now) + tonumber(ARGV[3]))
end
redis.call('HSET', KEYS[1], 'created_at', now, 'expires_at', expires, 'last_used', '0')
for i = 5, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
if expires ~= '0' then
  redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', tonumber(expires) + tonumber(ARGV[4])))
end
redis.call('ZADD', KEYS[2], now, ARGV[1])
return 1
