-- {now ms, {field, value, ...}} of a token, whose use is noted at most once in ARGV[1] ms; nil when there is none.
-- KEYS token; ARGV ms
local fields = redis.call('HGETALL', KEYS[1])
if #fields == 0 then
  return nil
end
local now = now_ms()
local used = tonumber(redis.call('HGET', KEYS[1], 'last_used') or 0)
if tonumber(now) - used >= tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'last_used', now)
end
return {now, fields}
