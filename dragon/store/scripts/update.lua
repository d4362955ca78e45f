-- Writes statuses of tasks that the caller owns, many in one trip, and publishes them.
-- ARGV   1 owner, 2 life of an ended task in seconds, 3 date for RQ, 4 '1': keep RQ's registries, '': RQ's worker does,
--        then 6 a write: key, attempt, kind (executing, success, error), line, bytes of output files (-1: none), traceback
-- Returns a number a write: 1 written, 0 refused: the task is another's, or over.
local owner, life, rq_date, with_rq = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1'
local answer = {}
for i = 5, #ARGV, 6 do
  local key, attempt, kind, line = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local task = redis.call('HMGET', TASK .. key, 'owner', 'attempt', 'final', 'line')
  if task[1] ~= owner or task[2] ~= attempt then
    table.insert(answer, 0)
  elseif task[3] == '1' then
    table.insert(answer, task[4] == line and 1 or 0)  -- the same write again: its reply was lost
  else
    if kind == 'executing' then
      if task[4] ~= line then store(key, line, false) end
    else
      finish(key, kind, line, life, tonumber(ARGV[i + 4]), rq_date, with_rq, ARGV[i + 5])
    end
    table.insert(answer, 1)
  end
end
publish()
return answer
