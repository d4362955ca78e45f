-- Gives one task, popped by RQ's own worker, to the RQ job that will run it, under a lease of its own.
-- ARGV   1 key, 2 owner, 3 lease in seconds
-- Returns {attempt, name, params, line}, or {} when the task is unknown, over or already somebody's.
local key = ARGV[1]
local task = redis.call('HMGET', TASK .. key, 'name', 'final', 'owner', 'params', 'line')
if not task[1] or task[2] == '1' or task[3] ~= '' then return {} end
redis.call('ZADD', WORKERS, unix_time() + tonumber(ARGV[3]), ARGV[2])
return {take(key, ARGV[2]), task[1], task[4], task[5]}
