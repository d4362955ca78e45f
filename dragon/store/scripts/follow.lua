-- Registers a feed as a follower of tasks and reads their lines in the same moment.
-- ARGV   1 feed id or '' (only read), then 2 a task: key, the seq that the caller has (0: none)
-- Returns 3 values a task: seq, final, line; '' for all three when the caller has the newest; seq -1 when the key is unknown.
local answer = {}
for i = 2, #ARGV, 2 do
  local task, values = read(ARGV[i]), {'', '', ''}
  if not task then
    values = {'-1', '1', ''}
  else
    if not task.final then add_feed(task, ARGV[1]) end
    if tonumber(task.seq) > tonumber(ARGV[i + 1]) then values = {task.seq, task.final and '1' or '0', task.line} end
  end
  for n = 1, 3 do table.insert(answer, values[n]) end
end
return answer
