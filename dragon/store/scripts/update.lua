-- Writes statuses of tasks that the caller owns, many in one trip, and publishes them.
-- ARGV   1 owner, 2 life of an ended task in seconds, 3 date for RQ, 4 '1': keep RQ's registries, '': RQ's worker does,
--        then 4 a write: key, attempt, kind (executing, success, error), line; or 6: those with a kind that ends in '+',
--        bytes of output files (-1: none), traceback
-- Returns a number a write: 1 written, 0 refused: the task is another's, or over.
local owner, life, rq_date, with_rq = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1'
local answer = {}
local ended = {success = 0, error = 0}

local function write(key, attempt, kind, line, bytes, traceback)
  local task = read(key)
  if not belongs(task, owner, attempt) then return 0 end
  if task.line == line then return 1 end  -- the same write again: its reply was lost
  if task.final then return 0 end
  if kind == 'executing' then
    store(task, line)
  else
    finish(task, kind, line, life, bytes, rq_date, with_rq, traceback)
    ended[kind] = ended[kind] + 1
  end
  return 1
end

local i = 5
while i <= #ARGV do
  local kind = ARGV[i + 2]
  if string.sub(kind, -1) == '+' then
    kind = string.sub(kind, 1, -2)
    answer[#answer + 1] = write(ARGV[i], ARGV[i + 1], kind, ARGV[i + 3], tonumber(ARGV[i + 4]), ARGV[i + 5])
    i = i + 6
  else
    answer[#answer + 1] = write(ARGV[i], ARGV[i + 1], kind, ARGV[i + 3], -1, '')
    i = i + 4
  end
end
if with_rq and redis.call('EXISTS', RQ_WORKER .. owner) == 1 then
  if ended.success > 0 then redis.call('HINCRBY', RQ_WORKER .. owner, 'successful_job_count', ended.success) end
  if ended.error > 0 then redis.call('HINCRBY', RQ_WORKER .. owner, 'failed_job_count', ended.error) end
end
commit()
return answer
