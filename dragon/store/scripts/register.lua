-- Registers a worker: with RQ, so that `rq info` shows it, and with dragon, with its first lease.
-- ARGV   1 worker, 2 lease in seconds, 3 queues (comma separated), 4 task names (comma separated), 5 date for RQ,
--        6 pid, 7 host name, 8 RQ's version, 9 Python's version, 10 executors for `def` tasks,
--        11 `async def` tasks at a time, 12 date
-- Returns 1.
local worker = ARGV[1]
redis.call('HSET', RQ_WORKER .. worker, 'birth', ARGV[5], 'last_heartbeat', ARGV[5], 'queues', ARGV[3], 'pid', ARGV[6],
  'hostname', ARGV[7], 'ip_address', '', 'version', ARGV[8], 'python_version', ARGV[9], 'state', 'idle')
redis.call('EXPIRE', RQ_WORKER .. worker, 480)
redis.call('SADD', RQ_WORKERS, RQ_WORKER .. worker)
for queue in string.gmatch(ARGV[3], '[^,]+') do redis.call('SADD', RQ_WORKERS .. ':' .. queue, RQ_WORKER .. worker) end
redis.call('HSET', WORKER .. worker, 'queues', ARGV[3], 'tasks', ARGV[4], 'pid', ARGV[6], 'hostname', ARGV[7],
  'executors', ARGV[10], 'concurrency', ARGV[11], 'started', ARGV[12])
redis.call('ZADD', WORKERS, unix_time() + tonumber(ARGV[2]), worker)
return 1
