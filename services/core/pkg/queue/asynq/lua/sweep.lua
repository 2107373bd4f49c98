-- microseconds: tells the jobs that were handed out longer ago than that and
-- that no handler has, then those that a handler has had for as long: id, run.
-- Each is told once in that time. Those to be canceled are told their processes.
local function old(set)
  local out = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. set, '-inf', now - tonumber(ARGV[1]), 'LIMIT', 0, 100)) do
    redis.call('ZREM', P .. set, id)
    redis.call('ZADD', P .. set, now, id)
    out[#out + 1] = id
    out[#out + 1] = redis.call('HGET', J(id), 'run') or ''
  end
  return out
end
for _, id in ipairs(redis.call('SRANDMEMBER', P .. 'canceled', 100)) do
  redis.call('PUBLISH', P .. 'cancel', id)
end
return {old('admitted'), old('running')}
