-- Takes tasks from RQ's lists for one worker: by free places of each kind, and ahead only what starts soon.
-- ARGV   1 worker, 2 date for RQ, 3 free places for `def` tasks, 4 free places for `async def` tasks,
--        5 work of `def` tasks that may be taken ahead in ms, 6 the same of `async def` tasks,
--        7 number of queues, the queues,
--        then 3 a task name: name, 'a' (async) or 's', measured duration in ms or '' when not yet known
-- Returns {suspended '1' or 'gone' or '', left '1' or '' (something waits that has no free place),
--         which of the queues are paused (comma separated), tasks ...},
--         5 values a task: key, attempt (and, where there is one, ' TRACEPARENT'), name, params, line;
--         attempt 0: not dragon's or over, dropped.
local worker, rq_date = ARGV[1], ARGV[2]
local ahead = {s = tonumber(ARGV[5]), a = tonumber(ARGV[6])}
local places = {s = tonumber(ARGV[3]), a = tonumber(ARGV[4])}
local answer = {'', '', ''}
if redis.call('EXISTS', RQ_SUSPENDED) == 1 then return {'1', '', ''} end
if not redis.call('ZSCORE', WORKERS, worker) then return {'gone', '', ''} end  -- its lease is over: another hands its tasks on

local kinds, durations = {}, {}
for i = 8 + tonumber(ARGV[7]), #ARGV, 3 do
  kinds[ARGV[i]] = ARGV[i + 1]
  durations[ARGV[i]] = tonumber(ARGV[i + 2])
end

local function has_place(name)
  local kind = kinds[name] or 's'
  if places[kind] > 0 then places[kind] = places[kind] - 1; return true end
  local duration = durations[name]
  if duration and duration <= ahead[kind] then ahead[kind] = ahead[kind] - duration; return true end
  return false
end

local function give(key, attempt, name, params, line)
  local n = #answer
  answer[n + 1], answer[n + 2], answer[n + 3], answer[n + 4], answer[n + 5] = key, attempt, name, params, line
end

-- What is no task of dragon's never runs; what is over (somebody used `rq requeue`) stays as it ended; RQ is told both.
-- What somebody has already stands in the queue twice: once is enough.
local function drop(queue, key, task)
  if not (task and not task.final) and redis.call('TYPE', TASK .. key).ok == 'hash' then
    local life = redis.call('TTL', TASK .. key)
    redis.call('HSET', TASK .. key, 'status', 'failed')
    redis.call('ZADD', RQ_FAILED .. queue, unix_time() + (life > 0 and life or 86400), key)
    if not task then redis.call('HSET', TASK .. key, 'ended_at', rq_date, 'exc_info', 'not a dragon task') end
  end
  give(key, '0', '', '', '')
end

local function reserve(queue, task)
  take(task, worker, 'status', 'started', 'started_at', rq_date, 'worker_name', worker)
  later('ZADD', RQ_WIP .. queue, '+inf', task.key .. ':' .. task.attempt)
  local attempt = task.trace == '' and task.attempt or task.attempt .. ' ' .. task.trace
  give(task.key, attempt, task.name, task.params, task.line)
end

-- The task that a key in a queue's list stands for, and whether it may be taken. One of another queue is none: it is not
-- ours to change.
local function look_at(queue, key)
  local task = read(key, true)
  if task and task.queue ~= queue then task = nil end
  return task, task and not task.final and task.owner == ''
end

local WINDOW, MOST = 64, 256  -- how far to look past tasks that have no place now; tasks a call (others wait meanwhile)

-- Takes from the list's head. What is taken without a gap is removed in one step, what lies behind a gap one by one.
local function take_from(queue, list)
  local head, skipped, at = 0, 0, 0
  while skipped < WINDOW and #answer < 5 * MOST do
    local keys = redis.pcall('LRANGE', list, at, at + WINDOW - 1)
    if keys.err or #keys == 0 then break end  -- a stranger's key of another type: the other queues go on
    local removed = 0
    for _, key in ipairs(keys) do
      local task, is_free = look_at(queue, key)
      if is_free and not has_place(task.name) then
        skipped = skipped + 1
        answer[2] = '1'
        if (places.a == 0 and places.s == 0) or skipped == WINDOW then return head end
      else
        if skipped == 0 then head = head + 1 else redis.call('LREM', list, 1, key); removed = removed + 1 end
        if is_free then reserve(queue, task) else drop(queue, key, task) end
        if #answer >= 5 * MOST then return head end
      end
    end
    at = at + #keys - removed
  end
  return head
end

-- Takes one task of a lane, the first that has a place; false when there is none. `passed`: how many had none before.
local function take_one(queue, list, passed)
  while passed[list] < WINDOW do
    local key = redis.pcall('LINDEX', list, passed[list])
    if not key or key.err then return false end
    local task, is_free = look_at(queue, key)
    if is_free and not has_place(task.name) then
      passed[list] = passed[list] + 1
      answer[2] = '1'
    else
      if passed[list] == 0 then redis.call('LPOP', list) else redis.call('LREM', list, 1, key) end
      if is_free then reserve(queue, task); return true end
      drop(queue, key, task)
    end
  end
  return false
end

-- Several accounts wait: one task of each in turns. The next call goes on where this one stops, and those that had
-- nothing with a place keep their turn.
local function take_in_turns(queue)
  local turns, own = TURNS .. queue, redis.call('GET', LANE .. queue)
  local passed, kept = {}, {}
  while #answer < 5 * MOST and #kept < WINDOW and (places.s > 0 or places.a > 0 or ahead.s > 0 or ahead.a > 0) do
    local account = redis.call('LPOP', turns)
    if not account then break end
    local list = account == own and RQ_QUEUE .. queue or lane_of(queue, account)
    passed[list] = passed[list] or 0
    local taken = take_one(queue, list, passed)
    if redis.call('EXISTS', list) == 0 then
      if account ~= own then redis.call('SREM', RQ_QUEUES, list) end
    elseif taken then
      redis.call('RPUSH', turns, account)
    else
      kept[#kept + 1] = account
    end
  end
  for i = #kept, 1, -1 do redis.call('LPUSH', turns, kept[i]) end
  promote(queue)
end

local paused, is_paused = {}, {}  -- pcall: what a stranger has put in that place pauses nothing
for _, queue in ipairs(redis.pcall('SMEMBERS', PAUSED)) do is_paused[queue] = true end

for q = 8, 7 + tonumber(ARGV[7]) do
  local queue = ARGV[q]
  if is_paused[queue] then
    paused[#paused + 1] = queue
  elseif redis.call('EXISTS', RQ_QUEUE .. queue) == 1 then
    if redis.call('EXISTS', TURNS .. queue) == 1 then
      take_in_turns(queue)
    else
      local head = take_from(queue, RQ_QUEUE .. queue)
      if head > 0 then redis.call('LPOP', RQ_QUEUE .. queue, head) end
    end
  end
end
commit()
answer[3] = table.concat(paused, ',')
return answer
