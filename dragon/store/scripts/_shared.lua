-- Put in front of every script, after the names. What happens to a task when it changes hands or ends.
-- Speed: each task is read once a script (`read`), and what many tasks do to the same key is sent together (`commit`).

local now  -- a script's time stands still

local function unix_time()
  if not now then
    local t = redis.call('TIME')
    now = tonumber(t[1]) + tonumber(t[2]) / 1000000
  end
  return now
end

local batches, order = {}, {}

-- Keeps one argument, or a pair, for one command on one key until `commit`.
local function later(command, name, first, second)
  local batch = batches[command .. name]
  if not batch then
    batch = {command, name, {}}
    batches[command .. name] = batch
    order[#order + 1] = batch
  end
  local arguments = batch[3]
  arguments[#arguments + 1] = first
  if second then arguments[#arguments + 1] = second end
end

local queued = {}  -- account -> by how much the number of its queued tasks changes

-- That number follows the task's own `waiting` mark, so it is exact however often a script runs.
local function set_waiting(task, now_waiting)
  if (task.waiting == '1') ~= now_waiting then
    task.waiting = now_waiting and '1' or '0'
    queued[task.account] = (queued[task.account] or 0) + (now_waiting and 1 or -1)
  end
end

local unsaved = {}  -- key -> a task whose newest line is not stored yet: another may replace it in the same script

local messages, listeners = {}, {}  -- by feed: lines, keys

local function announce(task, final)
  if task.feeds == '' then return end
  local message = task.key .. (final and 'F' or '.') .. task.seq .. ' ' .. task.line .. '\n'
  for feed in string.gmatch(task.feeds, '[^,]+') do
    if not messages[feed] then messages[feed] = {}; listeners[feed] = {} end
    messages[feed][#messages[feed] + 1] = message
    listeners[feed][task.key] = true
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

-- Sends what was kept for later, then the announcements: a line is stored before anybody hears of it.
local function commit()
  for key, task in pairs(unsaved) do redis.call('HSET', TASK .. key, 'seq', task.seq, 'line', task.line) end
  for account, change in pairs(queued) do
    if change ~= 0 then redis.call('HINCRBY', ACCOUNT .. account, 'queued', change) end
  end
  local CHUNK = 1000  -- arguments; even, for those that come in pairs
  for _, batch in ipairs(order) do
    for first = 1, #batch[3], CHUNK do
      redis.call(batch[1], batch[2], unpack(batch[3], first, math.min(first + CHUNK - 1, #batch[3])))
    end
  end
  publish()
end

local known = {}

-- The task as a table, nil when there is none.
local function read(key)
  if known[key] then return known[key] end
  local f = redis.call('HMGET', TASK .. key, 'account', 'origin', 'owner', 'attempt', 'final', 'seq', 'line', 'feeds',
    'waiting', 'reuse', 'max', 'name', 'params')
  if not f[7] then return nil end
  known[key] = {key = key, account = f[1], queue = f[2], owner = f[3] or '', attempt = f[4], final = f[5] == '1',
    seq = f[6], line = f[7], feeds = f[8] or '', waiting = f[9], reuse = f[10], max = f[11], name = f[12], params = f[13]}
  return known[key]
end

local function add_feed(task, feed)
  if feed ~= '' and not string.find(',' .. task.feeds .. ',', ',' .. feed .. ',', 1, true) then
    task.feeds = task.feeds == '' and feed or task.feeds .. ',' .. feed
    redis.call('HSET', TASK .. task.key, 'feeds', task.feeds)
  end
end

-- Stores a line as the task's newest and announces it.
local function store(task, line)
  task.seq, task.line = string.format('%d', task.seq + 1), line
  unsaved[task.key] = task
  announce(task, false)
end

-- Ends a task for good. `bytes` is the size of its output files, -1 without any. `with_rq`: keep RQ's registries too.
local function finish(task, kind, line, life, bytes, rq_date, with_rq, exc_info)
  local key, expires, ok = task.key, math.floor(unix_time()) + life, kind == 'success'
  set_waiting(task, false)
  task.seq, task.line, task.final = string.format('%d', task.seq + 1), line, true
  unsaved[key] = nil
  if with_rq then
    redis.call('HSET', TASK .. key, 'seq', task.seq, 'line', line, 'final', '1', 'waiting', '0',
      'status', ok and 'finished' or 'failed', 'ended_at', rq_date)
    if exc_info ~= '' then redis.call('HSET', TASK .. key, 'exc_info', exc_info) end
    later('ZREM', RQ_WIP .. task.queue, key .. ':' .. task.attempt)
    later('ZADD', (ok and RQ_FINISHED or RQ_FAILED) .. task.queue, expires, key)
  else
    redis.call('HSET', TASK .. key, 'seq', task.seq, 'line', line, 'final', '1', 'waiting', '0')
  end
  announce(task, true)
  if task.owner ~= '' then later('SREM', WORKER .. task.owner .. ':tasks', key) end
  if bytes >= 0 then
    redis.call('HSET', TASK .. key, 'bytes', bytes)
    redis.call('HINCRBY', ACCOUNT .. task.account, 'bytes', bytes)
    later('ZADD', EXPIRIES, expires, key)  -- the sweep removes it, after its files
  else
    redis.call('EXPIRE', TASK .. key, life)
  end
  if task.reuse and redis.call('GET', REUSE .. task.reuse) == key then
    if ok then redis.call('EXPIRE', REUSE .. task.reuse, life) else redis.call('DEL', REUSE .. task.reuse) end
  end
end

-- Puts a task that nobody works on any more back to the front of its queue. `uncount`: this attempt never really started.
local function requeue(task, uncount)
  local key, attempt = task.key, task.attempt
  later('SREM', WORKER .. task.owner .. ':tasks', key)
  later('ZREM', RQ_WIP .. task.queue, key .. ':' .. attempt)
  later('ZREM', RQ_FAILED .. task.queue, key)
  task.owner, task.attempt = '', uncount and string.format('%d', attempt - 1) or attempt
  set_waiting(task, true)
  redis.call('HSET', TASK .. key, 'owner', '', 'attempt', task.attempt, 'waiting', '1', 'status', 'queued')
  redis.call('PERSIST', TASK .. key)
  redis.call('LPUSH', RQ_QUEUE .. task.queue, key)
end

-- Gives a queued task to a worker: its attempt is counted from here. What follows are more fields and their values.
local function take(task, owner, ...)
  task.owner, task.attempt = owner, string.format('%d', task.attempt + 1)
  set_waiting(task, false)
  redis.call('HSET', TASK .. task.key, 'owner', owner, 'attempt', task.attempt, 'waiting', '0', ...)
  later('SADD', WORKER .. owner .. ':tasks', task.key)
end

-- Whether a worker may still speak for a task: the fence.
local function belongs(task, owner, attempt)
  return task and task.owner == owner and task.attempt == attempt
end
