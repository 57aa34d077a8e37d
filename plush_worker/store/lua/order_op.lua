-- Draws an op's number, stores its record and appends its event, all or nothing; the number, as text.
-- Record and event come without their first field, which is the number: '{"op":' number rest.
-- KEYS run, ops, orders, events, mesh; ARGV token, term, limit of ops, limit of events, rest of record, rest of event
local refused = check_term(KEYS[1], ARGV[2])
if refused then
  return refused
end
local ordered = redis.call('HGET', KEYS[3], ARGV[1])
if ordered then
  return ordered
end
if redis.call('HEXISTS', KEYS[5], 'counter') == 0 then
  return fail('NO-MESH', 'the mesh does not exist')
end
if redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[3]) then
  return fail('TOO-LARGE', 'the run has ' .. ARGV[3] .. ' ops, and may have no more')
end
redis.call('HINCRBY', KEYS[5], 'counter', 1)
local op = redis.call('HGET', KEYS[5], 'counter')
redis.call('HSET', KEYS[2], op, '{"op":' .. op .. ARGV[5])
redis.call('HSET', KEYS[3], ARGV[1], op)
append_event(KEYS[4], '{"op":' .. op .. ARGV[6], ARGV[1], '0', ARGV[4])
return op
