-- owner, life: puts back what was handed out in earlier lives of the owner.
-- Returns how many jobs these are.
local found = 0
for _, set in ipairs({'admitted', 'running'}) do
  for _, id in ipairs(redis.call('ZRANGE', P .. set, 0, -1)) do
    local v = redis.call('HMGET', J(id), 'owner', 'life')
    if v[1] == ARGV[1] and v[2] ~= ARGV[2] then
      put_back(id)
      found = found + 1
    end
  end
end
return found
