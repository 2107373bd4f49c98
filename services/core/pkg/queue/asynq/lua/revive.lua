-- id
local id = ARGV[1]
if redis.call('ZREM', P .. 'dead', id) == 0 then return 0 end
local k = key_of(id)
if k and (redis.call('HEXISTS', k, 'waits') == 1 or redis.call('HEXISTS', k, 'again') == 1) then
  redis.call('DEL', J(id)) -- the other one has the newer arguments
  return 1
end
redis.call('HDEL', J(id), 'error')
redis.call('HSET', J(id), 'attempt', 1, 'at', now)
insert(id)
return 1
