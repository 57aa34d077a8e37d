-- KEYS run, snapshot; ARGV term, event id, data
local refused = check_term(KEYS[1], ARGV[1])
if refused then
  return refused
end
redis.call('HSET', KEYS[2], 'event', ARGV[2], 'data', ARGV[3])
return 1
