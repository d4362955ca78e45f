-- Puts tasks that a worker reserved and will not finish back to the front of their queues, this attempt not counted.
-- ARGV   1 worker, 2 date, 3 why, in words, then 2 a task: key, attempt ('': whichever it is)
-- Returns how many went back; those that are another's or over stay as they are.
local count = 0
for i = #ARGV - 1, 4, -2 do  -- the last first, so that the order in the queue is as it was
  local task = read(ARGV[i])
  local attempt = ARGV[i + 1] ~= '' and ARGV[i + 1] or task and task.attempt
  if belongs(task, ARGV[1], attempt) and not task.final then
    note_attempt(task, ARGV[2], ARGV[3])
    requeue(task, true)
    count = count + 1
  end
end
commit()
return count
