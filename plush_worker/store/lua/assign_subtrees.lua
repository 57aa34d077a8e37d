-- Gives subtrees to workers, under one new epoch: {epoch, root, root, ...} of those granted.
-- Refused: an owner whose lease isn't held by that incarnation, and hosts in a subtree whose owner lives (unless it is
-- that subtree, still of the same incarnation and of the epoch given). Hosts of dead owners are taken out of theirs.
-- KEYS mesh, roots, prefix of subtrees, prefix of leases
-- ARGV request, then by sevens: root, owner, incarnation, epoch (0: new), members, parents, settings
local function each(text, visit)
  for first, last in string.gmatch(text, '(%d+)%-?(%d*)') do
    for number = tonumber(first), tonumber(last ~= '' and last or first) do
      visit(number)
    end
  end
end

if redis.call('HEXISTS', KEYS[1], 'counter') == 0 then
  return fail('NO-MESH', 'the mesh does not exist')
end
if redis.call('HGET', KEYS[1], 'state') == 'closing' then
  return fail('CLOSING', 'the mesh is being closed')
end

local held, dead, known, alive = {}, {}, {}, {}
for _, root in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  local record = redis.call('HMGET', KEYS[3] .. root, 'members', 'owner', 'incarnation', 'epoch', 'request')
  known[root] = record
  if record[2] and alive[record[3]] == nil then
    alive[record[3]] = lives(KEYS[4], record[2], record[3]) or false
  end
  local of = alive[record[3]] and held or dead
  each(record[1] or '', function(number) of[number] = root end)
end

local function free_for(root, members)
  local free = true
  each(members, function(number)
    if held[number] and held[number] ~= root then
      free = false
    end
  end)
  return free
end

local granted, shrunk, epoch = {}, {}, nil
for i = 2, #ARGV, 7 do -- this very request, repeated after a lost answer: say what it was granted
  local record = known[ARGV[i]]
  if record and record[5] == ARGV[1] then
    epoch = record[4]
    granted[#granted + 1] = ARGV[i]
  end
end
if epoch then
  table.insert(granted, 1, epoch)
  return granted
end

for i = 2, #ARGV, 7 do
  local root, owner, incarnation, before, members = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local record = known[root]
  local is_held = record and alive[record[3]]
  local allowed = lives(KEYS[4], owner, incarnation) and free_for(root, members)
  if allowed and (not is_held or (record[3] == incarnation and record[4] == before)) then
    if not epoch then
      redis.call('HINCRBY', KEYS[1], 'counter', 1)
      epoch = redis.call('HGET', KEYS[1], 'counter')
    end
    local key = KEYS[3] .. root
    if not is_held then
      redis.call('DEL', key)
      redis.call('HSET', key, 'up', '')
    else
      each(record[1], function(number) held[number] = nil end)
    end
    redis.call('HSET', key, 'root', root, 'owner', owner, 'incarnation', incarnation, 'epoch', epoch,
      'members', members, 'parents', ARGV[i + 5], 'settings', ARGV[i + 6], 'request', ARGV[1])
    redis.call('SADD', KEYS[2], root)
    alive[incarnation] = true
    known[root] = {members, owner, incarnation, epoch, ARGV[1]}
    each(members, function(number)
      held[number] = root
      local other = dead[number]
      if other and other ~= root then
        shrunk[other] = true
      end
      dead[number] = nil
    end)
    granted[#granted + 1] = root
  end
end

local left = {}
for number, root in pairs(dead) do
  if shrunk[root] then
    left[root] = left[root] or {}
    table.insert(left[root], number)
  end
end
for root in pairs(shrunk) do
  if alive[known[root][3]] then
    -- its record was replaced by one granted above
  elseif left[root] then
    table.sort(left[root])
    redis.call('HSET', KEYS[3] .. root, 'members', table.concat(left[root], ','))
  else
    redis.call('DEL', KEYS[3] .. root)
    redis.call('SREM', KEYS[2], root)
  end
end
table.insert(granted, 1, epoch or '0')
return granted
