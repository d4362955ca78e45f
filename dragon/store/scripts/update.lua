-- Writes statuses of tasks that the caller owns, many in one trip, and publishes them.
-- ARGV   1 owner, 2 life of an ended task in seconds, 3 date for RQ, 4 '1': keep RQ's registries, '': RQ's worker does,
--        then 6 a write: key, attempt, kind (executing, success, error), line, bytes of output files (-1: none), traceback
-- Returns a number a write: 1 written, 0 refused: the task is another's, or over.
local owner, life, rq_date, with_rq = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1'
local answer = {}
local ended = {success = 0, error = 0}
for i = 5, #ARGV, 6 do
  local task, kind, line = read(ARGV[i]), ARGV[i + 2], ARGV[i + 3]
  local written = 0
  if belongs(task, owner, ARGV[i + 1]) then
    if task.line == line then
      written = 1  -- the same write again: its reply was lost
    elseif not task.final then
      written = 1
      if kind == 'executing' then
        store(task, line)
      else
        finish(task, kind, line, life, tonumber(ARGV[i + 4]), rq_date, with_rq, ARGV[i + 5])
        ended[kind] = ended[kind] + 1
      end
    end
  end
  answer[#answer + 1] = written
end
if with_rq and redis.call('EXISTS', RQ_WORKER .. owner) == 1 then
  if ended.success > 0 then redis.call('HINCRBY', RQ_WORKER .. owner, 'successful_job_count', ended.success) end
  if ended.error > 0 then redis.call('HINCRBY', RQ_WORKER .. owner, 'failed_job_count', ended.error) end
end
commit()
return answer
