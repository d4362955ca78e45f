-- Puts tasks that a worker reserved and will not finish back to the front of their queues, this attempt not counted.
-- ARGV   1 worker, then 2 a task: key, attempt
-- Returns how many went back; those that are another's or over stay as they are.
local count = 0
for i = #ARGV - 1, 2, -2 do  -- the last first, so that the order in the queue is as it was
  local task = redis.call('HMGET', TASK .. ARGV[i], 'owner', 'attempt', 'final')
  if task[1] == ARGV[1] and task[2] == ARGV[i + 1] and task[3] ~= '1' then
    requeue(ARGV[i], true)
    count = count + 1
  end
end
return count
