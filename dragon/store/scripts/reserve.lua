-- Takes tasks from RQ's lists for one worker: by free places of each kind, and ahead only what starts soon.
-- ARGV   1 worker, 2 date for RQ, 3 free places for `def` tasks, 4 free places for `async def` tasks,
--        5 time that may be taken ahead in ms, 6 number of queues, the queues,
--        then 3 a task name: name, 'a' (async) or 's', measured duration in ms or '' when not yet known
-- Returns {suspended '1' or '', left '1' or '' (something waits that has no free place), tasks ...},
--         5 values a task: key, attempt, name, params, line; attempt 0: not dragon's or over, dropped.
local worker, rq_date, ahead = ARGV[1], ARGV[2], tonumber(ARGV[5])
local places = {s = tonumber(ARGV[3]), a = tonumber(ARGV[4])}
local answer = {'', ''}
if redis.call('EXISTS', RQ_SUSPENDED) == 1 then return {'1', ''} end
if not redis.call('ZSCORE', WORKERS, worker) then return {'gone', ''} end  -- its lease is over: another hands its tasks on

local kinds, durations = {}, {}
for i = 7 + tonumber(ARGV[6]), #ARGV, 3 do
  kinds[ARGV[i]] = ARGV[i + 1]
  durations[ARGV[i]] = tonumber(ARGV[i + 2])
end

local function has_place(name)
  local kind = kinds[name] or 's'
  if places[kind] > 0 then places[kind] = places[kind] - 1; return true end
  local duration = kind == 's' and durations[name]
  if duration and duration <= ahead then ahead = ahead - duration; return true end
  return false
end

-- What is no task of dragon's never runs; what is over (somebody used `rq requeue`) stays as it ended. RQ is told both.
local function drop(queue, key)
  if redis.call('EXISTS', RQ_JOB .. key) == 1 then
    local life = redis.call('TTL', TASK .. key)
    redis.call('HSET', RQ_JOB .. key, 'status', 'failed')
    redis.call('ZADD', RQ_FAILED .. queue, unix_time() + (life > 0 and life or 86400), key)
    if redis.call('EXISTS', TASK .. key) == 0 then
      redis.call('HSET', RQ_JOB .. key, 'ended_at', rq_date, 'exc_info', 'not a dragon task')
    end
  end
  for _, value in ipairs({key, 0, '', '', ''}) do table.insert(answer, value) end
end

local WINDOW, MOST = 64, 1024  -- how far to look past tasks that have no place now; tasks a call
for q = 7, 6 + tonumber(ARGV[6]) do
  local queue, skipped = ARGV[q], 0
  while skipped < WINDOW and #answer < 5 * MOST do
    local key = redis.call('LINDEX', RQ_QUEUE .. queue, skipped)
    if not key then break end
    local task = redis.call('HMGET', TASK .. key, 'name', 'final', 'params', 'line')
    local is_ours = task[1] and task[2] ~= '1'
    if is_ours and not has_place(task[1]) then
      skipped = skipped + 1
      answer[2] = '1'
      if places.a == 0 and places.s == 0 then break end
    else
      if skipped == 0 then redis.call('LPOP', RQ_QUEUE .. queue) else redis.call('LREM', RQ_QUEUE .. queue, 1, key) end
      if is_ours then
        local attempt = take(key, worker)
        redis.call('HSET', RQ_JOB .. key, 'status', 'started', 'started_at', rq_date, 'worker_name', worker)
        redis.call('ZADD', RQ_WIP .. queue, '+inf', key .. ':' .. attempt)
        for _, value in ipairs({key, attempt, task[1], task[3], task[4]}) do table.insert(answer, value) end
      else
        drop(queue, key)
      end
    end
  end
end
return answer
