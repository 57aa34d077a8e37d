-- {id, finished, keep_s, bytes of output, 1 when it has blobs}, ... of a page of runs, oldest first; '' where not set.
-- KEYS runs, prefix of runs, prefix of output; ARGV rank of the first, how many
local found = {}
local last = tonumber(ARGV[1]) + tonumber(ARGV[2]) - 1
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], ARGV[1], last)) do
  local run = redis.call('HMGET', KEYS[2] .. id, 'finished', 'keep_s')
  local bytes = 0
  for _, length in ipairs(redis.call('HVALS', KEYS[3] .. id)) do
    bytes = bytes + tonumber(length)
  end
  local blobs = redis.call('HEXISTS', KEYS[2] .. id, 'blobs')
  found[#found + 1] = {id, run[1] or '', run[2] or '', string.format('%.0f', bytes), blobs}
end
return found
