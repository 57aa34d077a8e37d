-- 0 when there is no such run.
-- KEYS run; ARGV term or '', then field and value by turns
local refused = check_term(KEYS[1], ARGV[1])
if refused then
  return refused
end
for i = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
return 1
