-- id
local id = ARGV[1]
local state = redis.call('HGET', J(id), 'state')
if not state or state == 'dead' then return 0 end
if state == 'admitted' or state == 'running' then
  redis.call('SADD', P .. 'canceled', id)
  redis.call('PUBLISH', P .. 'cancel', id)
  return 1
end
pull(id)
local k = key_of(id)
if k and state == 'held' then redis.call('HDEL', k, 'again') elseif k then redis.call('HDEL', k, 'waits') end
redis.call('DEL', J(id))
return 1
