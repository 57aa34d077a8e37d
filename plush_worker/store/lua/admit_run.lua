-- Counts a run among its owner's open ones: how many those are now, or minus how many when that is the limit.
-- KEYS open runs of the owner, prefix of runs; ARGV run id, limit, ms after which a run that isn't stored doesn't count
local now = tonumber(now_ms())
local entries = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
local open = 0
for i = 1, #entries, 2 do
  local run = redis.call('HMGET', KEYS[2] .. entries[i], 'term', 'finished')
  if run[2] or (not run[1] and now - tonumber(entries[i + 1]) > tonumber(ARGV[3])) then
    redis.call('ZREM', KEYS[1], entries[i])
  elseif entries[i] ~= ARGV[1] then
    open = open + 1
  end
end
if open >= tonumber(ARGV[2]) then
  return -open
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
return open + 1
