-- id
if redis.call('ZREM', P .. 'dead', ARGV[1]) == 0 then return 0 end
return redis.call('DEL', J(ARGV[1]))
