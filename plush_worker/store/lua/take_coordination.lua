-- The new term, or nil when the lease is held or the run isn't there.
-- KEYS run, lease; ARGV worker, incarnation, ttl ms, request
local term = redis.call('HGET', KEYS[1], 'term')
if not term then
  return nil
end
local lease = redis.call('GET', KEYS[2])
if lease then
  return lease == term .. ' ' .. ARGV[4] and term or nil
end
term = string.format('%.0f', tonumber(term) + 1)
redis.call('HSET', KEYS[1], 'term', term, 'worker', ARGV[1], 'incarnation', ARGV[2])
redis.call('SET', KEYS[2], term .. ' ' .. ARGV[4], 'PX', ARGV[3])
return term
