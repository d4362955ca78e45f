-- Removes ended tasks whose life is over and whose files are gone, and what RQ's registries still hold of such.
-- ARGV   keys
-- Returns how many were removed.
local count = 0
for _, key in ipairs(ARGV) do
  local task = redis.call('HMGET', TASK .. key, 'account', 'bytes', 'reuse')
  if redis.call('ZREM', EXPIRIES, key) == 1 and task[1] then
    redis.call('HINCRBY', ACCOUNT .. task[1], 'bytes', -tonumber(task[2] or 0))
    if task[3] and redis.call('GET', REUSE .. task[3]) == key then redis.call('DEL', REUSE .. task[3]) end
    redis.call('DEL', TASK .. key)
    count = count + 1
  end
end
for _, queue_key in ipairs(redis.call('SMEMBERS', RQ_QUEUES)) do
  local queue = string.sub(queue_key, #RQ_QUEUE + 1)
  redis.call('ZREMRANGEBYSCORE', RQ_FINISHED .. queue, '-inf', unix_time())
  redis.call('ZREMRANGEBYSCORE', RQ_FAILED .. queue, '-inf', unix_time())
end
return count
