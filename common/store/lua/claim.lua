-- namespace, id, owner, lease_ms, ended_too -> {'ok', ver, record, control} | {'gone'|'ended'|'paused'|'early'|'busy'}
local id, owner = ARGV[2], ARGV[3]
local h = redis.call('HMGET', job_key(id), 'state', 'owner', 'lease', 'ver', 'control', 'record')
local state, t = h[1], now()
if not state then return { 'gone' } end
local ended = state == 'done' or state == 'parked' or state == 'cancelled'
if ended and ARGV[5] ~= '1' then return { 'ended' } end
if state == 'paused' and ARGV[5] ~= '1' and h[5] ~= 'cancel' then return { 'paused' } end
local due = tonumber(redis.call('ZSCORE', NS .. ':due', id) or 0)
if state == 'waiting' and due > t and ARGV[5] ~= '1' then return { 'early' } end
if h[2] ~= '' and h[2] ~= owner and tonumber(h[3]) > t then return { 'busy' } end
local ver = tonumber(h[4]) + 1
redis.call('HSET', job_key(id), 'owner', owner, 'lease', t + ARGV[4], 'ver', ver)
if not ended then redis.call('HSET', job_key(id), 'state', 'running') end
if not ended then redis.call('ZADD', NS .. ':due', t + ARGV[4], id) end
return { 'ok', ver, h[6], h[5] }
