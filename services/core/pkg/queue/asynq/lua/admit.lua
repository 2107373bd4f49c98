-- owner, life: hands out the next job: its ID and run; or, where there is none, the
-- microseconds until there is one, -1: none is scheduled.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'later', '-inf', now, 'LIMIT', 0, 100)) do
  redis.call('ZREM', P .. 'later', id)
  push(id)
end
local tenant = redis.call('ZRANGE', P .. 'ready', 0, 0)[1]
if not tenant then
  local first = redis.call('ZRANGE', P .. 'later', 0, 0, 'WITHSCORES')
  if not first[1] then return {'', -1} end
  return {'', tonumber(first[2]) - now}
end
local wait = P .. 'wait:' .. tenant
local id = redis.call('ZPOPMIN', wait)[1]
redis.call('ZREM', P .. 'due', id)
redis.call('ZREM', P .. 'ready', tenant)
count(tenant, 1)
local served = redis.call('INCR', P .. 'served')
if redis.call('EXISTS', wait) == 1 then redis.call('ZADD', P .. 'ready', place(tenant, served), tenant) end
local k = key_of(id)
if k then
  redis.call('HDEL', k, 'waits')
  redis.call('HSET', k, 'runs', id)
end
redis.call('ZADD', P .. 'admitted', now, id)
redis.call('HSET', J(id), 'state', 'admitted', 'owner', ARGV[1], 'life', ARGV[2])
return {id, redis.call('HINCRBY', J(id), 'run', 1)}
