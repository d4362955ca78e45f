-- A worker's sign of life: renews its lease and says which tasks are its own.
-- ARGV   1 worker, 2 lease in seconds, 3 date for RQ, 4 RQ's word for its state (busy, idle),
--        5 what its executors do (JSON), '' when that has not changed
-- Returns {'1', keys ...}; {'0'} when the lease was over and its tasks have been given to others.
local worker = ARGV[1]
if not redis.call('ZSCORE', WORKERS, worker) then return {'0'} end
redis.call('ZADD', WORKERS, unix_time() + tonumber(ARGV[2]), worker)
if redis.call('EXISTS', RQ_WORKER .. worker) == 1 then
  redis.call('HSET', RQ_WORKER .. worker, 'last_heartbeat', ARGV[3], 'state', ARGV[4])
  redis.call('EXPIRE', RQ_WORKER .. worker, 480)
end
if ARGV[5] ~= '' then redis.call('HSET', WORKER .. worker, 'doing', ARGV[5]) end
for queue in string.gmatch(redis.call('HGET', WORKER .. worker, 'queues') or '', '[^,]+') do
  promote(queue)  -- RQ's own commands and workers may have emptied its list
end
local answer = redis.call('SMEMBERS', WORKER .. worker .. ':tasks')
table.insert(answer, 1, '1')
return answer
