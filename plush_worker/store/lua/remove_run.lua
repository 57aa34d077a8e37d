-- KEYS every key of the run, then runs; ARGV run id
local there = redis.call('EXISTS', KEYS[1])
for i = 1, #KEYS - 1 do
  redis.call('UNLINK', KEYS[i])
end
redis.call('ZREM', KEYS[#KEYS], ARGV[1])
return there
