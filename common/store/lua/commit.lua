-- The checkpoint: refused with a stale fence; otherwise the record, the due time, the event, the permits given back and
-- the next wake-up change together.
-- namespace, id, owner, ver, cmsgpack{state, phase, record, committed, undoing, keep, lease_ms, delay_ms, operations={{remote, op, project}..},
--   servers={..}, release={..}, goes_first={place: ms}, plan, events={..}} -> {1, control} | {0}
local id = ARGV[2]
if not is_held(id, ARGV[3], ARGV[4]) then return { 0 } end
local c = cmsgpack.unpack(ARGV[5])
local key, due, t = job_key(id), NS .. ':due', now()
redis.call('HSET', key, 'state', c.state, 'phase', c.phase, 'record', c.record)
for place, ms in pairs(c.goes_first) do
  local first = NS .. ':first:' .. place
  redis.call('ZREMRANGEBYSCORE', first, '-inf', t)
  if ms > 0 then
    redis.call('ZADD', first, t + ms, id)
  elseif redis.call('ZREM', first, id) == 1 then
    call_next(place .. ':transfer')
  end
end
release(id, c.release, #c.servers > 0)
for _, event in ipairs(c.events) do
  redis.call('XADD', NS .. ':events:' .. c.plan, 'MAXLEN', '~', 10000, '*', 'event', event)
end
if c.keep then
  redis.call('HSET', key, 'lease', t + c.lease_ms)
  redis.call('ZADD', due, t + c.lease_ms, id)
  return { 1, redis.call('HGET', key, 'control') }
end
redis.call('HSET', key, 'owner', '', 'lease', 0)
local control = redis.call('HGET', key, 'control')
if control == 'cancel' and not c.committed and not c.undoing and (c.state == 'parked' or c.state == 'paused') then
  -- Asked for between the last look at the control and now: the person was told that it would be done.
  redis.call('HSET', key, 'state', 'queued')
  wake(id)
elseif c.state == 'done' or c.state == 'parked' or c.state == 'cancelled' or c.state == 'paused' then
  redis.call('ZREM', due, id)
  redis.call('HSET', key, 'control', '')
elseif c.state == 'waiting' then
  redis.call('ZADD', due, t + c.delay_ms, id)
  for _, o in ipairs(c.operations) do
    -- The operation may have ended before we got here: then its result is already known and nobody would wake us.
    if redis.call('EXISTS', NS .. ':result:' .. o[1] .. ':' .. o[2]) == 1 then
      wake(id)
    else
      redis.call('HSET', NS .. ':waiting:' .. o[1], o[2], id .. '|' .. o[3])
      redis.call('SADD', NS .. ':listening', o[1])
    end
  end
  for _, remote in ipairs(c.servers) do
    -- Likewise it may be back.
    local trouble = trouble_of(remote)
    if trouble and trouble.aside then
      redis.call('SADD', NS .. ':stranded:' .. remote, id)
    else
      wake(id)
    end
  end
  if control == 'cancel' and not c.committed and not c.undoing then wake(id) end
else
  redis.call('ZADD', due, t + VISIBILITY, id)
  push(id, c.phase)
end
return { 1, redis.call('HGET', key, 'control') }
