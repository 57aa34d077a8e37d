-- Stores a run, its first event and (with a queue) the message of its coordinator's task; 0 when the run is there.
-- KEYS run, spec, events, runs[, queue]
-- ARGV run id, spec, event, limit of events, number of fields, field, value, ...[, message]
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
local now = now_ms()
local fields = tonumber(ARGV[5])
redis.call('HSET', KEYS[1], 'term', '0', 'state', 'submitted', 'created_at', now)
for i = 6, 5 + 2 * fields, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[4], now, ARGV[1])
append_event(KEYS[3], ARGV[3], '', '0', ARGV[4])
if KEYS[5] then
  redis.call('LPUSH', KEYS[5], ARGV[6 + 2 * fields])
end
return 1
