-- Puts a task whose executor crashed back to the front of its queue, the attempt counted, unless it was the last one.
-- ARGV   1 worker, 2 key, 3 attempt
-- Returns 1 back in its queue; 0 no attempts are left, the caller still owns it and must end it; -1 it is another's, or over.
local task = redis.call('HMGET', TASK .. ARGV[2], 'owner', 'attempt', 'final', 'max')
if task[1] ~= ARGV[1] or task[2] ~= ARGV[3] or task[3] == '1' then return -1 end
if tonumber(task[2]) >= tonumber(task[4]) then return 0 end
requeue(ARGV[2], false)
return 1
