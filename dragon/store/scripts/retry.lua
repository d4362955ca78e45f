-- Puts a task whose executor crashed back to the front of its queue, the attempt counted, unless it was the last one.
-- ARGV   1 worker, 2 key, 3 attempt, 4 date, 5 how the attempt has ended, in words
-- Returns 1 back in its queue; 0 no attempts are left, the caller still owns it and must end it; -1 it is another's, or over.
local task = read(ARGV[2])
if not belongs(task, ARGV[1], ARGV[3]) or task.final then return -1 end
if tonumber(task.attempt) >= tonumber(task.max) then return 0 end
note_attempt(task, ARGV[4], ARGV[5])
requeue(task, false)
commit()
return 1
