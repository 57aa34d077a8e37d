-- Forgets a run; remembers that it was removed, so that the workers remove its files.
-- KEYS every key of the run, then runs, removed runs; ARGV run id, how many removed runs are remembered
local there = redis.call('EXISTS', KEYS[1])
for i = 1, #KEYS - 2 do
  redis.call('UNLINK', KEYS[i])
end
redis.call('ZREM', KEYS[#KEYS - 1], ARGV[1])
if there == 1 then
  redis.call('ZADD', KEYS[#KEYS], now_ms(), ARGV[1])
  redis.call('ZREMRANGEBYRANK', KEYS[#KEYS], 0, -1 - tonumber(ARGV[2]))
end
return there
