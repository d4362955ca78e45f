-- Hands the tasks of dead workers back to their queues; takes over those that have no attempt left, to end them.
-- ARGV   1 the caller, a living worker, 2 date, 3 how the attempts of a lost worker's tasks have ended, in words
-- Returns {number handed back, then 4 a task taken over: key, attempt, line, dead worker}
local caller = ARGV[1]
local answer = {0}

local function hand_on(task, dead)
  if tonumber(task.attempt) < tonumber(task.max) then
    note_attempt(task, ARGV[2], ARGV[3])
    requeue(task, false)
    answer[1] = answer[1] + 1
  else
    task.owner = caller
    save(task)
    redis.call('SADD', WORKER .. caller .. ':tasks', task.key)
    for _, value in ipairs({task.key, task.attempt, task.line, dead}) do table.insert(answer, value) end
  end
end

for _, dead in ipairs(redis.call('ZRANGEBYSCORE', WORKERS, '-inf', '(' .. unix_time(), 'LIMIT', 0, 10)) do
  if dead ~= caller then
    for _, key in ipairs(redis.call('SMEMBERS', WORKER .. dead .. ':tasks')) do
      local task = read(key)
      if task and task.owner == dead and not task.final then hand_on(task, dead) end
    end
    for queue in string.gmatch(redis.call('HGET', WORKER .. dead, 'queues') or '', '[^,]+') do
      redis.call('SREM', RQ_WORKERS .. ':' .. queue, RQ_WORKER .. dead)
    end
    redis.call('SREM', RQ_WORKERS, RQ_WORKER .. dead)
    redis.call('DEL', WORKER .. dead .. ':tasks', WORKER .. dead, RQ_WORKER .. dead)
    redis.call('ZREM', WORKERS, dead)
  end
end
commit()
return answer
