-- id, run, runner, most dead, owner, life: gives a job that was handed out to its handler.
-- Nothing is returned where it is no longer to run.
local id = ARGV[1]
local v = redis.call('HMGET', J(id), 'state', 'run', 'attempt', 'most', 'at')
if not v[1] or v[2] ~= ARGV[2] then return false end
local attempt = tonumber(v[3])
if v[1] == 'running' then
  attempt = attempt + 1 -- its process is gone
elseif v[1] ~= 'admitted' then
  return false
end
redis.call('ZREM', P .. 'admitted', id)
local canceled = redis.call('SISMEMBER', P .. 'canceled', id) == 1
if canceled or tonumber(v[4]) > 0 and attempt > tonumber(v[4]) then
  local again = release(id)
  if canceled then
    redis.call('DEL', J(id))
  else
    bury(id, 'the process that ran it ended', ARGV[4])
  end
  if again then insert(again) end
  return false
end
redis.call('ZADD', P .. 'running', now, id)
redis.call('HSET', J(id), 'state', 'running', 'runner', ARGV[3], 'owner', ARGV[5], 'life', ARGV[6],
  'attempt', attempt, 'since', now)
local j = redis.call('HMGET', J(id), 'kind', 'key', 'tenant', 'args')
return {j[1], j[2], j[3], j[4], attempt, tonumber(v[4]), now - tonumber(v[5])}
