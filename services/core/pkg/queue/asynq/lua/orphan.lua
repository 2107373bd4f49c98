-- id, run: puts a job back that was handed out and that nothing runs.
local id = ARGV[1]
local v = redis.call('HMGET', J(id), 'state', 'run')
if v[2] ~= ARGV[2] or v[1] ~= 'running' and v[1] ~= 'admitted' then return 0 end
put_back(id)
return 1
