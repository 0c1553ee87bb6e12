-- namespace, remote, operation, result -> 1 if a job was waiting for it
local remote, operation = ARGV[2], ARGV[3]
redis.call('SET', NS .. ':result:' .. remote .. ':' .. operation, ARGV[4], 'EX', 3600)
local waiting = NS .. ':waiting:' .. remote
local entry = redis.call('HGET', waiting, operation)
if not entry then return 0 end
redis.call('HDEL', waiting, operation)
return wake(string.match(entry, '^(.-)|'))
