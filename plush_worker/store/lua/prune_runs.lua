-- Removes finished runs beyond the newest ARGV[1], oldest first, at most ARGV[2] of them; their ids.
-- KEYS runs, then the prefix of every family of a run's keys, the run's own first
local removed = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1 - tonumber(ARGV[1]))) do
  if #removed >= tonumber(ARGV[2]) then
    break
  end
  if redis.call('HEXISTS', KEYS[2] .. id, 'finished') == 1 then
    for i = 2, #KEYS do
      redis.call('UNLINK', KEYS[i] .. id)
    end
    redis.call('ZREM', KEYS[1], id)
    removed[#removed + 1] = id
  end
end
return removed
