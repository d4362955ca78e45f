-- Ends a task in a final line that the caller made of the present one; twice called: first to read, then to write.
-- ARGV   1 key, 2 account, 3 the seq that the line was made for, '' to read only, 4 line, 5 life in seconds, 6 date for RQ
-- Returns {'unknown'} (another account's too), {'now', seq, final, line}, or {'ended'}.
local key = ARGV[1]
local task = redis.call('HMGET', TASK .. key, 'account', 'seq', 'final', 'line', 'owner', 'attempt', 'queue')
if task[1] ~= ARGV[2] then return {'unknown'} end
if task[3] == '1' or task[2] ~= ARGV[3] then return {'now', task[2], task[3], task[4]} end
redis.call('LREM', RQ_QUEUE .. task[7], 1, key)
finish(key, 'error', ARGV[4], tonumber(ARGV[5]), -1, ARGV[6], true, '')
publish()
if task[5] ~= '' then redis.call('PUBLISH', WORKER .. task[5], 'cancel ' .. key .. ' ' .. task[6]) end
return {'ended'}
