-- id, run: puts a job back that was handed out and that nothing runs.
local id = ARGV[1]
local v = redis.call('HMGET', J(id), 'state', 'run', 'attempt')
if v[2] ~= ARGV[2] or v[1] ~= 'running' and v[1] ~= 'admitted' then return 0 end
local again = release(id)
if v[1] == 'running' then redis.call('HSET', J(id), 'attempt', v[3] + 1) end
insert(id)
if again then insert(again) end
return 1
