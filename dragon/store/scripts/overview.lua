-- Looks at all queues in one moment: what waits, runs and has ended. Writes nothing.
-- ARGV   1 account whose tasks alone are counted, '' for all, 2 life of an ended task in seconds,
--        then queues that are to be there even if nothing was ever put into them
-- Returns {now, suspended 0 or 1, refused definitions (-1: not counted), of these in the last minute, then 9 values a queue: name, waiting, executing, paused 0 or 1,
--         when the task was queued that has waited longest (a date, or ''), ended in success, in error (-1: not counted),
--         of these in the last minute, of these in error}.
local account, life = ARGV[1], tonumber(ARGV[2])
local MINUTE, MOST_EXECUTING = 60, 5000

-- What a stranger has put in the place of ours may be of another type: then there is nothing.
local function ask(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if string.find(reply.err, 'WRONGTYPE', 1, true) then return false end
  return redis.call(...)  -- what this user may not ask is no 0: it fails again, and the script with it
end

local lists, queues = {}, {}  -- queue -> its own list and its lanes

local function add(queue, list)
  if not lists[queue] then lists[queue] = {}; queues[#queues + 1] = queue end
  lists[queue][list] = true
end

for i = 3, #ARGV do add(ARGV[i], RQ_QUEUE .. ARGV[i]) end
for _, list in ipairs(ask('SMEMBERS', RQ_QUEUES) or {}) do
  local name = string.sub(list, #RQ_QUEUE + 1)
  add(string.match(name, '^(.-)' .. LANE_MARK) or name, list)
end
for _, queue in ipairs(ask('SMEMBERS', PAUSED) or {}) do add(queue, RQ_QUEUE .. queue) end

local function is_counted(queue, list)
  if account == '' or list == lane_of(queue, account) then return true end
  return list == RQ_QUEUE .. queue and ask('GET', LANE .. queue) == account
end

local function waiting(queue)
  local count, oldest = 0, ''
  for list in pairs(lists[queue]) do
    if is_counted(queue, list) then
      count = count + (ask('LLEN', list) or 0)
      local line = ask('HGET', TASK .. (ask('LINDEX', list, 0) or ''), 'line') or ''
      local date = string.match(string.sub(line, 1, 200), '"queued":"([^"]+)"')
      if date and (oldest == '' or date < oldest) then oldest = date end
    end
  end
  return count, oldest
end

local function executing(queue)
  if account == '' then return ask('ZCARD', RQ_WIP .. queue) or 0 end
  local count = 0
  for _, member in ipairs(ask('ZRANGE', RQ_WIP .. queue, 0, MOST_EXECUTING - 1) or {}) do
    local facts = ask('HGET', TASK .. string.match(member, '^[^:]*'), 'facts') or ''
    if string.match(facts, '^%d+ (%S*) ') == account then count = count + 1 end
  end
  return count
end

local function ended(registry)
  if account ~= '' then return -1, -1 end
  local since = math.floor(unix_time()) + life - MINUTE  -- an ended task's score is the end of its life
  return ask('ZCARD', registry) or 0, ask('ZCOUNT', registry, '(' .. since, '+inf') or 0
end

local answer = {string.format('%.6f', unix_time()), redis.call('EXISTS', RQ_SUSPENDED), ended(RQ_FAILED)}
for _, queue in ipairs(queues) do
  local count, oldest = waiting(queue)
  local success, success_now = ended(RQ_FINISHED .. queue)
  local failed, failed_now = ended(RQ_FAILED .. queue)
  for _, value in ipairs({queue, count, executing(queue), ask('SISMEMBER', PAUSED, queue) or 0, oldest,
    success, failed, success_now + failed_now, failed_now}) do answer[#answer + 1] = value end
end
return answer
