-- Notes that tasks have been retried, on the old ones and on the new. Those that are gone stay gone.
-- ARGV   2 a retry: old key, new key
-- Returns 1.
for i = 1, #ARGV, 2 do
  local old, new = TASK .. ARGV[i], TASK .. ARGV[i + 1]
  if redis.call('EXISTS', old) == 1 then redis.call('HSET', old, 'retried_as', ARGV[i + 1]) end
  if redis.call('EXISTS', new) == 1 then redis.call('HSET', new, 'retry_of', ARGV[i]) end
end
return 1
