-- id, kind, key, tenant, args, priority, microseconds until due, attempts, most jobs
local id = ARGV[1]
local state = redis.call('HGET', J(id), 'state')
if state == 'dead' then return 'taken' end
if state then return 'there' end
if redis.call('ZCARD', P .. 'due') + redis.call('ZCARD', P .. 'later') >= tonumber(ARGV[9]) then return 'full' end
local seq = redis.call('INCR', P .. 'seq')
redis.call('HSET', J(id), 'kind', ARGV[2], 'key', ARGV[3], 'tenant', ARGV[4], 'args', ARGV[5], 'priority', ARGV[6],
  'at', now + tonumber(ARGV[7]), 'most', ARGV[8], 'attempt', 1, 'run', 0, 'seq', seq, 'state', 'waiting')
insert(id)
return 'added'
