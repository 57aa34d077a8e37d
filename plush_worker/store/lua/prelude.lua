-- Stands before every script. Local functions only.

local function now_ms()
  local time = redis.call('TIME')
  return string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
end

local function fail(code, text)
  return redis.error_reply('PLUSH-' .. code .. ' ' .. text)
end

-- Whether the lease of a worker is held by this incarnation. `prefix` is that of the lease keys.
local function lives(prefix, name, incarnation)
  return incarnation and redis.call('HGET', prefix .. name, 'incarnation') == incarnation
end

-- An error unless the run exists and (when `term` isn't '') its coordinator has this very term.
local function check_term(run, term)
  local current = redis.call('HGET', run, 'term')
  if not current then
    return fail('NO-RUN', 'the run does not exist')
  end
  if term ~= '' and term ~= current then
    return fail('FENCED', 'the run has a coordinator of term ' .. current .. ', this is term ' .. term)
  end
end

-- Appends an event once: a request that is repeated after a lost answer finds what it appended by its token.
local function append_event(stream, event, token, attempt, max_events)
  if attempt ~= '0' then
    for _, entry in ipairs(redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1000)) do
      if entry[2][3] == 't' and entry[2][4] == token then
        return entry[1]
      end
    end
  end
  return redis.call('XADD', stream, 'MAXLEN', '~', max_events, '*', 'e', event, 't', token)
end
