-- Put in front of every script, after the names. What happens to a task when it changes hands or ends.

local function unix_time()
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

-- The number of an account's queued tasks follows the task's own `waiting` mark, so it is exact however often a script runs.
local function set_waiting(key, account, now_waiting)
  local was = redis.call('HGET', TASK .. key, 'waiting') == '1'
  if was == now_waiting then return end
  redis.call('HSET', TASK .. key, 'waiting', now_waiting and '1' or '0')
  redis.call('HINCRBY', ACCOUNT .. account, 'queued', now_waiting and 1 or -1)
end

-- Lines for the feeds that follow a task; `publish` sends them, one message a feed.
local messages = {}
local listeners = {}

local function announce(key, feeds, seq, final, line)
  if not feeds or feeds == '' then return end
  local message = key .. (final and 'F' or '.') .. seq .. ' ' .. line .. '\n'
  for feed in string.gmatch(feeds, '[^,]+') do
    if not messages[feed] then messages[feed] = {}; listeners[feed] = {} end
    table.insert(messages[feed], message)
    listeners[feed][key] = true
  end
end

local function publish()
  for feed, lines in pairs(messages) do
    if redis.call('PUBLISH', FEED .. feed, table.concat(lines)) == 0 then
      -- Nobody listens: the server is gone. (One that only lost its connection registers again when it is back.)
      for key in pairs(listeners[feed]) do
        local rest = {}
        for other in string.gmatch(redis.call('HGET', TASK .. key, 'feeds') or '', '[^,]+') do
          if other ~= feed then table.insert(rest, other) end
        end
        redis.call('HSET', TASK .. key, 'feeds', table.concat(rest, ','))
      end
    end
  end
end

local function add_feed(key, feed)
  if feed == '' then return end
  local feeds = redis.call('HGET', TASK .. key, 'feeds') or ''
  if not string.find(',' .. feeds .. ',', ',' .. feed .. ',', 1, true) then
    redis.call('HSET', TASK .. key, 'feeds', feeds == '' and feed or feeds .. ',' .. feed)
  end
end

-- Stores a line as the task's newest and announces it.
local function store(key, line, final)
  local seq = redis.call('HINCRBY', TASK .. key, 'seq', 1)
  redis.call('HSET', TASK .. key, 'line', line, 'final', final and '1' or '0')
  announce(key, redis.call('HGET', TASK .. key, 'feeds'), seq, final, line)
end

-- Ends a task for good. `bytes` is the size of its output files, -1 without any. `with_rq`: keep RQ's registries too.
local function finish(key, kind, line, life, bytes, rq_date, with_rq, exc_info)
  local task = redis.call('HMGET', TASK .. key, 'account', 'queue', 'owner', 'attempt', 'reuse')
  local account, queue, owner, attempt, reuse = task[1], task[2], task[3], task[4], task[5]
  local expires = math.floor(unix_time()) + life
  set_waiting(key, account, false)
  store(key, line, true)
  if owner and owner ~= '' then redis.call('SREM', WORKER .. owner .. ':tasks', key) end
  if bytes >= 0 then
    redis.call('HSET', TASK .. key, 'bytes', bytes)
    redis.call('HINCRBY', ACCOUNT .. account, 'bytes', bytes)
    redis.call('ZADD', EXPIRIES, expires, key)
  else
    redis.call('EXPIRE', TASK .. key, life)
  end
  if reuse and redis.call('GET', REUSE .. reuse) == key then
    if kind == 'success' then redis.call('EXPIRE', REUSE .. reuse, life) else redis.call('DEL', REUSE .. reuse) end
  end
  if with_rq and redis.call('EXISTS', RQ_JOB .. key) == 1 then
    local ok = kind == 'success'
    redis.call('HSET', RQ_JOB .. key, 'status', ok and 'finished' or 'failed', 'ended_at', rq_date)
    if exc_info ~= '' then redis.call('HSET', RQ_JOB .. key, 'exc_info', exc_info) end
    redis.call('EXPIRE', RQ_JOB .. key, life)
    redis.call('ZREM', RQ_WIP .. queue, key .. ':' .. attempt)
    redis.call('ZADD', (ok and RQ_FINISHED or RQ_FAILED) .. queue, expires, key)
    if owner and redis.call('EXISTS', RQ_WORKER .. owner) == 1 then
      redis.call('HINCRBY', RQ_WORKER .. owner, ok and 'successful_job_count' or 'failed_job_count', 1)
    end
  end
end

-- Puts a task that nobody works on any more back to the front of its queue. `uncount`: this attempt never really started.
local function requeue(key, uncount)
  local task = redis.call('HMGET', TASK .. key, 'account', 'queue', 'owner', 'attempt')
  local account, queue, owner, attempt = task[1], task[2], task[3], task[4]
  redis.call('HSET', TASK .. key, 'owner', '')
  if uncount then redis.call('HINCRBY', TASK .. key, 'attempt', -1) end
  set_waiting(key, account, true)
  redis.call('SREM', WORKER .. owner .. ':tasks', key)
  redis.call('ZREM', RQ_WIP .. queue, key .. ':' .. attempt)
  redis.call('ZREM', RQ_FAILED .. queue, key)
  redis.call('HSET', RQ_JOB .. key, 'status', 'queued')
  redis.call('PERSIST', RQ_JOB .. key)
  redis.call('LPUSH', RQ_QUEUE .. queue, key)
end

-- Gives a queued task to a worker: its attempt is counted from here.
local function take(key, owner)
  local attempt = redis.call('HINCRBY', TASK .. key, 'attempt', 1)
  set_waiting(key, redis.call('HGET', TASK .. key, 'account'), false)
  redis.call('HSET', TASK .. key, 'owner', owner)
  redis.call('SADD', WORKER .. owner .. ':tasks', key)
  return attempt
end
