-- id, runner, verdict, microseconds until it runs again, error, most dead: does
-- what was decided about a job. Returns what became of it; nothing where
-- another runs it by now.
local id = ARGV[1]
local v = redis.call('HMGET', J(id), 'state', 'runner', 'attempt')
if v[1] ~= 'running' or v[2] ~= ARGV[2] then return false end
local verdict = ARGV[3]
if redis.call('SISMEMBER', P .. 'canceled', id) == 1 then verdict = 'canceled' end
local again = release(id)
redis.call('HDEL', J(id), 'runner')
if verdict == 'retried' or verdict == 'snoozed' then
  if verdict == 'retried' then redis.call('HSET', J(id), 'attempt', v[3] + 1, 'error', ARGV[5]) end
  redis.call('HSET', J(id), 'at', now + tonumber(ARGV[4]))
  insert(id)
elseif verdict == 'dead' then
  bury(id, ARGV[5], ARGV[6])
else
  redis.call('DEL', J(id))
end
-- After the retry of its own key, because what came later has the newer arguments.
if again then insert(again) end
return verdict
