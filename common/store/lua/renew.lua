-- namespace, id, owner, ver, lease_ms -> 1, or 0 if the fence is lost
local id = ARGV[2]
if not is_held(id, ARGV[3], ARGV[4]) then return 0 end
redis.call('HSET', job_key(id), 'lease', now() + ARGV[5])
redis.call('ZADD', NS .. ':due', now() + ARGV[5], id)
return 1
