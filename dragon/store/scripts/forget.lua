-- Removes ended tasks whose life is over and whose files are gone, and what RQ's registries still hold of such.
-- ARGV   keys
-- Returns how many were removed.
local count = 0
for _, key in ipairs(ARGV) do
  local task = read(key)
  if redis.call('ZREM', EXPIRIES, key) == 1 and task then
    redis.call('HINCRBY', ACCOUNT .. task.account, 'bytes', -tonumber(redis.call('HGET', TASK .. key, 'bytes') or 0))
    if task.reuse ~= '' and redis.pcall('GET', REUSE .. task.reuse) == key then redis.call('DEL', REUSE .. task.reuse) end
    redis.call('ZREM', RQ_FINISHED .. task.queue, key)  -- RQ's own worker has listed it for longer
    redis.call('DEL', TASK .. key, LOG .. key)
    count = count + 1
  end
end
for _, queue_key in ipairs(redis.call('SMEMBERS', RQ_QUEUES)) do
  local queue = string.sub(queue_key, #RQ_QUEUE + 1)
  redis.call('ZREMRANGEBYSCORE', RQ_FINISHED .. queue, '-inf', unix_time())
  redis.call('ZREMRANGEBYSCORE', RQ_FAILED .. queue, '-inf', unix_time())
end
return count
