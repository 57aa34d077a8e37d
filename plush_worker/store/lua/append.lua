-- Appends events: as the coordinator of a term, as a worker that holds subtrees (root and epoch by turns), or as anybody.
-- KEYS run, events, prefix of subtrees; ARGV token, attempt, limit of events, term or '', number of events, event, ...,
-- root, epoch, ...
local refused = check_term(KEYS[1], ARGV[4])
if refused then
  return refused
end
local last = 5 + tonumber(ARGV[5])
for i = last + 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[3] .. ARGV[i], 'epoch') ~= ARGV[i + 1] then
    return fail('FENCED', 'subtree ' .. ARGV[i] .. ' is no longer held under epoch ' .. ARGV[i + 1])
  end
end
local id = false
for i = 6, last do
  id = append_event(KEYS[2], ARGV[i], ARGV[1] .. ':' .. i, ARGV[2], ARGV[3])
end
return id
