-- A worker leaves in order. What it still holds is handed on at once: its lease ends now, and `lost` finds it.
-- ARGV   1 worker, 2 date for RQ
-- Returns 1 when it leaves nothing behind, 0 when another worker has to take over.
local worker = ARGV[1]
for queue in string.gmatch(redis.call('HGET', WORKER .. worker, 'queues') or '', '[^,]+') do
  redis.call('SREM', RQ_WORKERS .. ':' .. queue, RQ_WORKER .. worker)
end
redis.call('SREM', RQ_WORKERS, RQ_WORKER .. worker)
if redis.call('EXISTS', RQ_WORKER .. worker) == 1 then
  redis.call('HSET', RQ_WORKER .. worker, 'death', ARGV[2])
  redis.call('EXPIRE', RQ_WORKER .. worker, 60)
end
if redis.call('SCARD', WORKER .. worker .. ':tasks') > 0 then
  redis.call('ZADD', WORKERS, 0, worker)
  return 0
end
redis.call('ZREM', WORKERS, worker)
redis.call('DEL', WORKER .. worker)
return 1
