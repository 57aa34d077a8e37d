-- {id, {field, value, ...}}, ... of the newest runs, newest first; without the fields that are large.
-- KEYS runs, prefix of runs; ARGV limit, longest value
local found = {}
for _, id in ipairs(redis.call('ZREVRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1)) do
  local fields, short = redis.call('HGETALL', KEYS[2] .. id), {}
  for i = 1, #fields, 2 do
    if #fields[i + 1] <= tonumber(ARGV[2]) then
      short[#short + 1] = fields[i]
      short[#short + 1] = fields[i + 1]
    end
  end
  if #fields > 0 then
    found[#found + 1] = {id, short}
  end
end
return found
