-- namespace, limit, visibility_ms -> how many overdue jobs were sent again
local due = NS .. ':due'
local ids = redis.call('ZRANGEBYSCORE', due, '-inf', now(), 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  local h = redis.call('HMGET', job_key(id), 'state', 'phase')
  if not h[1] or h[1] == 'done' or h[1] == 'parked' or h[1] == 'cancelled' or h[1] == 'paused' then
    redis.call('ZREM', due, id)
  else
    -- Overdue stays overdue until a worker claims it, so that the claim does not look early; only the resend waits.
    -- A long queue is slow, not lost.
    local behind = redis.call('LLEN', NS .. '.dramatiq:' .. h[2]) > 200
    local sent = not behind and redis.call('SET', NS .. ':sent:' .. id, 1, 'NX', 'PX', ARGV[3])
    if sent then push(id, h[2]) end
  end
end
return #ids
