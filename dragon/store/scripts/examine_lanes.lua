-- Looks at one queue whose tasks stand in several lists: the main one, and a lane for each account that waits beside it.
-- Writes nothing.
-- ARGV   1 queue, 2 its list of turns, then accounts
-- Returns {length of the main list, then two values an account: length of its lane, how often it has a turn}.
local main = RQ_QUEUE .. ARGV[1]
local turns = {}
for _, account in ipairs(redis.call('LRANGE', ARGV[2], 0, -1)) do turns[account] = (turns[account] or 0) + 1 end
local answer = {redis.call('LLEN', main)}
for i = 3, #ARGV do
  answer[#answer + 1] = redis.call('LLEN', main .. '@' .. ARGV[i])
  answer[#answer + 1] = turns[ARGV[i]] or 0
end
return answer
