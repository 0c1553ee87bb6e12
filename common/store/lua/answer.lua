-- A server has answered: its jobs are due, and the pump sends them. namespace, remote -> 1 if it had been set aside
local remote, t = ARGV[2], now()
local trouble = trouble_of(remote)
if not trouble then return 0 end
redis.call('HDEL', NS .. ':troubles', remote)
if not trouble.aside then return 0 end
local stranded = NS .. ':stranded:' .. remote
for _, id in ipairs(redis.call('SMEMBERS', stranded)) do
  if redis.call('HGET', job_key(id), 'state') == 'waiting' then redis.call('ZADD', NS .. ':due', t, id) end
end
redis.call('DEL', stranded)
return 1
