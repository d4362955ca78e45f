-- Looks at one queue whose tasks stand in several lists: its own, and a lane for each account that waits beside it.
-- Writes nothing.
-- ARGV   1 queue, then accounts
-- Returns {length of the own list, the account that stands in it, how often that has a turn,
--          then two values an account: length of its lane, how often it has a turn}.
local queue, turns = ARGV[1], {}
for _, account in ipairs(redis.call('LRANGE', TURNS .. queue, 0, -1)) do turns[account] = (turns[account] or 0) + 1 end
local own = redis.call('GET', LANE .. queue)
local answer = {redis.call('LLEN', RQ_QUEUE .. queue), own, own and turns[own] or 0}
for i = 2, #ARGV do
  answer[#answer + 1] = redis.call('LLEN', lane_of(queue, ARGV[i]))
  answer[#answer + 1] = turns[ARGV[i]] or 0
end
return answer
