-- Changes fields of a subtree while it still has this epoch.
-- KEYS subtree; ARGV epoch, then field and value by turns
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then
  return 0
end
for i = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
return 1
