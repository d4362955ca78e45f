-- Reads the task that serves the same request already, if there is one.
-- ARGV   1 digest for single flight
-- Returns {} or {key, seq, final, line}.
local key = redis.call('GET', REUSE .. ARGV[1])
local task = key and read(key)
if not task then return {} end
return {key, task.seq, task.final and '1' or '0', task.line}
