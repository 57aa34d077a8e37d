-- {id, {field, value, ...}}, ... of all tokens, oldest first; forgets the ids of those that are gone.
-- KEYS tokens, prefix of tokens
local found = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local fields = redis.call('HGETALL', KEYS[2] .. id)
  if #fields > 0 then
    found[#found + 1] = {id, fields}
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
return found
