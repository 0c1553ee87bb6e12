-- All permits or none. namespace, id, lease_ms, resource, limit, ... -> '' or the resource that is full
local id, t = ARGV[2], now()
local full = ''
for i = 4, #ARGV, 2 do
  local key = NS .. ':slots:' .. ARGV[i]
  redis.call('ZREMRANGEBYSCORE', key, '-inf', t)
  if not redis.call('ZSCORE', key, id) and redis.call('ZCARD', key) >= tonumber(ARGV[i + 1]) then
    full = ARGV[i]
    break
  end
end
if full ~= '' then
  redis.call('ZADD', NS .. ':queue:' .. full, 'NX', t, id)
  return full
end
for i = 4, #ARGV, 2 do
  redis.call('ZADD', NS .. ':slots:' .. ARGV[i], t + ARGV[3], id)
  redis.call('ZREM', NS .. ':queue:' .. ARGV[i], id)
end
return ''
