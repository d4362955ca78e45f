-- Registers a feed as a follower of tasks and reads their lines in the same moment.
-- ARGV   1 feed id or '' (only read), then 2 a task: key, the seq that the caller has (0: none)
-- Returns 3 values a task: seq, final, line; '' for all three when the caller has the newest; seq -1 when the key is unknown.
local answer = {}
for i = 2, #ARGV, 2 do
  local task = redis.call('HMGET', TASK .. ARGV[i], 'seq', 'final', 'line', 'feeds')
  local values = {'', '', ''}
  if not task[3] then
    values = {'-1', '1', ''}
  else
    if task[2] ~= '1' then add_feed({key = ARGV[i], feeds = task[4] or ''}, ARGV[1]) end
    if tonumber(task[1]) > tonumber(ARGV[i + 1]) then values = task end
  end
  for n = 1, 3 do table.insert(answer, values[n]) end
end
return answer
