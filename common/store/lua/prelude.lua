-- Loaded in front of every script. ARGV[1] is always the namespace.
local NS = ARGV[1]

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function job_key(id) return NS .. ':job:' .. id end

-- Push a dramatiq message the way its broker does. Arguments travel as kwargs because cmsgpack writes an empty Lua table
-- as an array, which dramatiq accepts for args and not for kwargs.
local function push(id, phase)
  local mid = 'w' .. redis.call('INCR', NS .. ':message') .. '-' .. now()
  local body = cmsgpack.pack({
    queue_name = phase, actor_name = phase, args = {}, kwargs = { job_id = id },
    options = { redis_message_id = mid }, message_id = mid, message_timestamp = now(),
  })
  local queue = NS .. '.dramatiq:' .. phase
  if redis.call('HSETNX', queue .. '.msgs', mid, body) == 1 then redis.call('RPUSH', queue, mid) end
end

-- A wake-up that nobody has answered after this many ms is sent again by the pump.
local VISIBILITY = 15000

-- Make a job runnable now and send its wake-up. It is not "waiting" any more, so that a claim does not find it early.
local function wake(id)
  local h = redis.call('HMGET', job_key(id), 'state', 'phase')
  if h[1] ~= 'waiting' and h[1] ~= 'queued' then return 0 end
  if h[1] == 'waiting' then redis.call('HSET', job_key(id), 'state', 'queued') end
  redis.call('ZADD', NS .. ':due', now() + VISIBILITY, id)
  push(id, h[2])
  return 1
end

local function is_held(id, owner, ver)
  local h = redis.call('HMGET', job_key(id), 'owner', 'ver')
  return h[1] == owner and h[2] == ver
end

-- The failures in a row of a server, or nil.
local function trouble_of(remote)
  local packed = redis.call('HGET', NS .. ':troubles', remote)
  return packed and cmsgpack.unpack(packed)
end

local function call_next(resource)
  local first
  repeat
    first = redis.call('ZPOPMIN', NS .. ':queue:' .. resource)[1]
  until not first or wake(first) == 1
end

-- Give permits back and wake the job that has waited longest for each. One that was called for a permit and does not
-- take it passes the call on: it is in the queue no more.
local function release(id, resources, was_called)
  for _, resource in ipairs(resources) do
    local held = redis.call('ZREM', NS .. ':slots:' .. resource, id) == 1
    local queued = was_called and redis.call('ZREM', NS .. ':queue:' .. resource, id) == 1
    if held or (was_called and not queued) then call_next(resource) end
  end
end
