-- Ends a task in a final line that the caller made of the present one; twice called: first to read, then to write.
-- ARGV   1 key, 2 account, 3 the seq that the line was made for, '' to read only, 4 line, 5 life in seconds, 6 date for RQ
-- Returns {'unknown'} (another account's too), {'now', seq, final, line}, or {'ended'}.
local task = read(ARGV[1])
if not task or task.account ~= ARGV[2] then return {'unknown'} end
if task.final or task.seq ~= ARGV[3] then return {'now', task.seq, task.final and '1' or '0', task.line} end
if task.phase == 'w' then
  redis.call('LREM', RQ_QUEUE .. task.queue, 1, task.key)
  redis.call('LREM', lane_of(task.queue, task.account), 1, task.key)
  leave_lane(task.queue, task.account)
end
finish(task, 'error', ARGV[4], tonumber(ARGV[5]), -1, ARGV[6], true, '')
commit()
if task.owner ~= '' then redis.call('PUBLISH', WORKER .. task.owner, 'cancel ' .. task.key .. ' ' .. task.attempt) end
return {'ended'}
