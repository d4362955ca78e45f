-- Gives one task, popped by RQ's own worker, to the RQ job that will run it, under a lease of its own.
-- ARGV   1 key, 2 owner, 3 lease in seconds
-- Returns {attempt, name, params, line, traceparent or ''}, or {} when the task is unknown, over or already somebody's.
local task = read(ARGV[1], true)
if not task or task.final or task.owner ~= '' then return {} end
redis.call('ZADD', WORKERS, unix_time() + tonumber(ARGV[3]), ARGV[2])
take(task, ARGV[2])
commit()
leave_lane(task.queue, task.account)  -- RQ's worker has popped it, and knows nothing of lanes
return {task.attempt, task.name, task.params, task.line, task.trace}
