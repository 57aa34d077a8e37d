-- {next score, next id, {id, value, ...}, ...}: runs behind a cursor, newest first, with an owner, name and end.
-- A run without a field has false in its place. KEYS runs, prefix of runs
-- ARGV score and id of the cursor, limit, runs to look at, owner, name, end ('': any), field, ...
local fields = {'owner', 'name', 'state', 'finished'}
local wanted = {}
for i = 8, #ARGV do
  wanted[#wanted + 1] = ARGV[i]
end
local found, score, last, left = {}, '', '', tonumber(ARGV[4])
local entries = redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[1], '-inf', 'WITHSCORES', 'LIMIT', 0, left + 100)
local stopped = #entries == 2 * (left + 100)
for i = 1, #entries, 2 do
  local id = entries[i]
  -- Of runs of one millisecond the greater id comes first.
  if not (entries[i + 1] == ARGV[1] and id >= ARGV[2] and ARGV[2] ~= '') then
    if left == 0 or #found == tonumber(ARGV[3]) then
      stopped = true
      break
    end
    left, last, score = left - 1, id, entries[i + 1]
    local run = redis.call('HMGET', KEYS[2] .. id, unpack(fields))
    local fits = run[1] and (ARGV[5] == '' or run[1] == ARGV[5]) and (ARGV[6] == '' or run[2] == ARGV[6])
    if fits and ARGV[7] ~= '' then
      if ARGV[7] == 'open' then
        fits = not run[4]
      else
        fits = run[4] and (ARGV[7] == 'ended' or run[3] == ARGV[7])
      end
    end
    if fits then
      local values = redis.call('HMGET', KEYS[2] .. id, unpack(wanted))
      table.insert(values, 1, id)
      found[#found + 1] = values
    end
  end
end
if not stopped then
  score, last = '', ''
end
table.insert(found, 1, last)
table.insert(found, 1, score)
return found
