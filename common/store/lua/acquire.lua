-- All permits or none. Where cutovers go first, each takes the place of a transfer that would begin, but for the last.
-- namespace, id, lease_ms, resource, limit, ... -> '', the resource that is full, or PLACE:first
local id, t = ARGV[2], now()
for i = 4, #ARGV, 2 do
  local key = NS .. ':slots:' .. ARGV[i]
  redis.call('ZREMRANGEBYSCORE', key, '-inf', t)
  if not redis.call('ZSCORE', key, id) then
    local place = string.match(ARGV[i], '^(.*):transfer$')
    local taken, limit = redis.call('ZCARD', key), tonumber(ARGV[i + 1])
    local is_full = taken >= limit
    local yields = place and taken > 0 and taken + redis.call('ZCOUNT', NS .. ':first:' .. place, t, '+inf') >= limit
    if is_full or yields then
      redis.call('ZADD', NS .. ':queue:' .. ARGV[i], 'NX', t, id)
      return is_full and ARGV[i] or place .. ':first'
    end
  end
end
for i = 4, #ARGV, 2 do
  redis.call('ZADD', NS .. ':slots:' .. ARGV[i], t + ARGV[3], id)
  redis.call('ZREM', NS .. ':queue:' .. ARGV[i], id)
end
return ''
