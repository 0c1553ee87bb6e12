-- namespace, plan, id, state, phase, record -> 1 if it was new
local plan, id = ARGV[2], ARGV[3]
if redis.call('EXISTS', job_key(id)) == 1 then return 0 end
redis.call('HSET', job_key(id), 'state', ARGV[4], 'phase', ARGV[5], 'record', ARGV[6], 'ver', 0, 'owner', '', 'lease', 0, 'control', '')
redis.call('RPUSH', NS .. ':jobs:' .. plan, id)
redis.call('ZADD', NS .. ':due', now() + VISIBILITY, id)
push(id, ARGV[5])
return 1
