-- set, limit, newest first (1 or 0)
local ids
if ARGV[3] == '1' then
  ids = redis.call('ZREVRANGE', P .. ARGV[1], 0, tonumber(ARGV[2]) - 1)
else
  ids = redis.call('ZRANGE', P .. ARGV[1], 0, tonumber(ARGV[2]) - 1)
end
local out = {}
for i = 1, #ids do
  local j = redis.call('HMGET', J(ids[i]), 'kind', 'key', 'tenant', 'args', 'attempt', 'most', 'priority', 'at', 'since', 'error')
  out[#out + 1] = {ids[i], unpack(j)}
end
return out
