-- Notes how much of a segment is written and synced, and appends events that rest on it; the length now committed.
-- KEYS run, output, writers, events; ARGV segment, bytes, incarnation, limit of segments, limit of events, token, attempt,
-- event, ...
local refused = check_term(KEYS[1], '')
if refused then
  return refused
end
local writer = redis.call('HGET', KEYS[3], ARGV[1])
if writer and writer ~= ARGV[3] then
  return fail('FENCED', 'segment ' .. ARGV[1] .. ' is written by incarnation ' .. writer)
end
if not writer then
  if redis.call('HLEN', KEYS[3]) >= tonumber(ARGV[4]) then
    return fail('TOO-LARGE', 'the run has ' .. ARGV[4] .. ' segments, and may have no more')
  end
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
end
local committed = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or -1)
if tonumber(ARGV[2]) > committed then
  committed = tonumber(ARGV[2])
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
for i = 8, #ARGV do
  append_event(KEYS[4], ARGV[i], ARGV[6] .. ':' .. i, ARGV[7], ARGV[5])
end
return committed
