-- Removes subtrees that this incarnation owns; how many.
-- KEYS roots, prefix of subtrees; ARGV incarnation, root, root, ...
local count = 0
for i = 2, #ARGV do
  if redis.call('HGET', KEYS[2] .. ARGV[i], 'incarnation') == ARGV[1] then
    redis.call('DEL', KEYS[2] .. ARGV[i])
    redis.call('SREM', KEYS[1], ARGV[i])
    count = count + 1
  end
end
return count
