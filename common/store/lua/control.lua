-- namespace, id, command ('pause', 'cancel' or 'resume', which takes a pause back) -> the job's state, or '' if there is none
local id = ARGV[2]
local state = redis.call('HGET', job_key(id), 'state')
if not state then return '' end
if state == 'done' or state == 'parked' or state == 'cancelled' then return state end
-- A pause neither replaces a cancel nor does its end take one back.
local asked = redis.call('HGET', job_key(id), 'control')
if ARGV[3] == 'cancel' or (ARGV[3] == 'pause' and asked == '') then
  redis.call('HSET', job_key(id), 'control', ARGV[3])
elseif ARGV[3] == 'resume' and asked == 'pause' then
  redis.call('HSET', job_key(id), 'control', '')
end
if state == 'paused' and ARGV[3] == 'cancel' then
  redis.call('ZADD', NS .. ':due', now() + VISIBILITY, id)
  push(id, redis.call('HGET', job_key(id), 'phase'))
elseif state ~= 'running' then
  wake(id)
end
return state
