-- A request got no answer. namespace, remote, reason -> {the trouble, msgpack, 1 if it was set aside by this}
-- One that fails again only after this many ms has been well in between, even if nobody noticed.
local FORGOTTEN_AFTER = 180000
local IN_A_ROW = 3
local remote, t = ARGV[2], now()
local trouble = trouble_of(remote)
if not trouble or (not trouble.aside and t - trouble.last > FORGOTTEN_AFTER) then
  trouble = { failures = 0, since = t, aside = false }
end
local before = trouble.aside
trouble.failures = trouble.failures + 1
trouble.last, trouble.reason, trouble.aside = t, ARGV[3], trouble.failures >= IN_A_ROW
local packed = cmsgpack.pack(trouble)
redis.call('HSET', NS .. ':troubles', remote, packed)
return { packed, trouble.aside and not before and 1 or 0 }
