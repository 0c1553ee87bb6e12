-- namespace, limit -> how many overdue jobs there were
local due, t = NS .. ':due', now()
local ids = redis.call('ZRANGEBYSCORE', due, '-inf', t, 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  local h = redis.call('HMGET', job_key(id), 'state', 'phase')
  if not h[1] or h[1] == 'done' or h[1] == 'parked' or h[1] == 'cancelled' or (h[1] == 'paused' and redis.call('HGET', job_key(id), 'control') ~= 'cancel') then
    redis.call('ZREM', due, id)
  else
    if h[1] == 'waiting' then redis.call('HSET', job_key(id), 'state', 'queued') end
    redis.call('ZADD', due, t + VISIBILITY, id)
    -- A long queue is slow, not lost.
    if redis.call('LLEN', NS .. '.dramatiq:' .. h[2]) <= 200 then push(id, h[2]) end
  end
end
return #ids
