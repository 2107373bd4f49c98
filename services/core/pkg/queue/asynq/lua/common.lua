-- What all scripts begin with. KEYS[1] is the prefix of all keys; its hash tag
-- puts them into one slot. Times are microseconds of this server's clock. The
-- first write of a script that must go on while memory is full is one that
-- Redis allows then (ZREM, DEL); what follows in that script is allowed, too.
--
--   job:<id>         hash: the job (state, run: how often it was handed out)
--   key:<kind>\0<k>  hash: waits, runs, again: the IDs of a key's jobs
--   wait:<tenant>    zset: jobs that may run now, by priority, then age
--   due              zset: the same of all tenants, and those held for their like, by age
--   later            zset: jobs by the time they are scheduled for
--   ready            zset: tenants with jobs that may run, the next one first
--   tenants          hash: how many jobs of a tenant are handed out
--   admitted         zset: jobs handed out, by when; of them
--   running          zset: those that a handler has, by when that was last looked at
--   canceled         set: those that are to end
--   dead             zset: by when they were given up
local P = KEYS[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local CLASS = 2199023255552  -- 2^41 jobs of a priority; 2000 of these are exact in a float
local RUNNING = 1099511627776 -- 2^40

local function J(id) return P .. 'job:' .. id end

local woken = false
local function wake()
  if not woken then
    redis.call('PUBLISH', P .. 'wake', '')
    woken = true
  end
end

local function key_of(id)
  local v = redis.call('HMGET', J(id), 'kind', 'key')
  if not v[2] or v[2] == '' then return nil end
  return P .. 'key:' .. v[1] .. '\0' .. v[2]
end

local function place(tenant, served)
  return tonumber(redis.call('HGET', P .. 'tenants', tenant) or '0') * RUNNING + served
end

-- count adds to the jobs that a tenant has handed out, and moves it in the row.
local function count(tenant, n)
  if redis.call('HINCRBY', P .. 'tenants', tenant, n) <= 0 then
    redis.call('HDEL', P .. 'tenants', tenant)
  end
  local old = redis.call('ZSCORE', P .. 'ready', tenant)
  if old then
    redis.call('ZADD', P .. 'ready', place(tenant, tonumber(old) % RUNNING), tenant)
  end
end

local function rank(id)
  local v = redis.call('HMGET', J(id), 'tenant', 'seq', 'priority')
  redis.call('ZADD', P .. 'wait:' .. v[1], tonumber(v[2]) - tonumber(v[3]) * CLASS, id)
  return v[1], v[2]
end

-- push puts a job among those that may run now or those that wait for their time.
local function push(id)
  local at = tonumber(redis.call('HGET', J(id), 'at'))
  if at > now then
    redis.call('ZADD', P .. 'later', at, id)
    redis.call('HSET', J(id), 'state', 'scheduled')
  else
    local tenant, seq = rank(id)
    redis.call('ZADD', P .. 'due', seq, id)
    redis.call('HSET', J(id), 'state', 'waiting')
    if not redis.call('ZSCORE', P .. 'ready', tenant) then
      -- Behind those who have waited.
      redis.call('ZADD', P .. 'ready', place(tenant, tonumber(redis.call('GET', P .. 'served') or '0')), tenant)
    end
  end
  wake()
end

-- pull takes a job out of where it waits.
local function pull(id)
  redis.call('ZREM', P .. 'later', id)
  redis.call('ZREM', P .. 'due', id)
  local tenant = redis.call('HGET', J(id), 'tenant')
  local wait = P .. 'wait:' .. tenant
  if redis.call('ZREM', wait, id) == 1 and redis.call('EXISTS', wait) == 0 then
    redis.call('ZREM', P .. 'ready', tenant)
  end
end

-- merge takes a job into an older one: the earlier time, the higher priority
-- and the newer arguments win.
local function merge(into, id)
  local a = redis.call('HMGET', J(into), 'priority', 'at')
  local b = redis.call('HMGET', J(id), 'priority', 'at', 'attempt', 'args')
  redis.call('DEL', J(id))
  redis.call('HSET', J(into), 'args', b[4])
  if tonumber(b[1]) > tonumber(a[1]) then redis.call('HSET', J(into), 'priority', b[1]) end
  if tonumber(b[2]) < tonumber(a[2]) then redis.call('HSET', J(into), 'at', b[2], 'attempt', b[3]) end
end

-- insert adds a job, or takes it into the one of its key.
local function insert(id)
  local k = key_of(id)
  if not k then return push(id) end
  local s = redis.call('HMGET', k, 'waits', 'runs', 'again')
  if s[2] and s[3] then
    merge(s[3], id)
  elseif s[2] then
    redis.call('HSET', k, 'again', id)
    redis.call('HSET', J(id), 'state', 'held')
    redis.call('ZADD', P .. 'due', redis.call('HGET', J(id), 'seq'), id)
  elseif s[1] and redis.call('HGET', J(s[1]), 'state') == 'waiting' then
    merge(s[1], id)
    rank(s[1]) -- its tenant keeps its place
  elseif s[1] then
    pull(s[1])
    merge(s[1], id)
    push(s[1])
  else
    redis.call('HSET', k, 'waits', id)
    push(id)
  end
end

-- release takes a job from those handed out and returns the one of its key
-- that has come meanwhile.
local function release(id)
  redis.call('ZREM', P .. 'admitted', id)
  redis.call('ZREM', P .. 'running', id)
  redis.call('SREM', P .. 'canceled', id)
  count(redis.call('HGET', J(id), 'tenant'), -1)
  local k = key_of(id)
  if not k then return false end
  local again = redis.call('HGET', k, 'again')
  redis.call('HDEL', k, 'runs', 'again')
  if again then redis.call('ZREM', P .. 'due', again) end
  return again
end

local function bury(id, why, most)
  redis.call('ZADD', P .. 'dead', now, id)
  redis.call('HSET', J(id), 'state', 'dead', 'error', why, 'since', now)
  local over = redis.call('ZCARD', P .. 'dead') - tonumber(most)
  if over > 0 then
    for _, old in ipairs(redis.call('ZRANGE', P .. 'dead', 0, over - 1)) do
      redis.call('ZREM', P .. 'dead', old)
      redis.call('DEL', J(old))
    end
  end
end

-- put_back lets a job wait again that was handed out and that nothing runs; one
-- that is to end has ended.
local function put_back(id)
  local state = redis.call('HGET', J(id), 'state')
  local canceled = redis.call('SISMEMBER', P .. 'canceled', id) == 1
  local again = release(id)
  if canceled then
    redis.call('DEL', J(id))
  else
    if state == 'running' then redis.call('HINCRBY', J(id), 'attempt', 1) end
    insert(id)
  end
  if again then insert(again) end
end
