-- Appends log lines of tasks that the caller owns, many in one trip, and rings the servers that follow them.
-- ARGV   1 owner, 2 most lines kept of a task, then a task: key, attempt, life of its log in seconds, number of lines,
--        then 2 a line: mark, text
-- Returns a number a task: 1 kept, 0 refused: the task is another's, or over, or something else has its log's name.
-- A line's id is NUMBER-MARK. A mark is 9 digits that one writer has and 10 that it counts with, so lines of the newest
-- line's writer that do not come after it are there already: they were sent again, because a reply was lost.
local owner, most = ARGV[1], ARGV[2]
local answer, bells = {}, {}

-- The phase and the feeds of a task; nil when the caller may not speak for it. Not `read`: it would copy the status, too.
local function look_at(key, attempt)
  local state = redis.pcall('HGET', TASK .. key, 'state')
  if type(state) ~= 'string' then return nil end
  local present, phase, has, feeds = string.match(state, '^(%d+) %d+ ([re]) (%S*) (%S*)$')
  if present == attempt and has == owner then return phase, feeds end
end

-- Returns the number of the newest line, nil when they are refused: an ended task says nothing more.
local function append(key, phase, life, first, last)
  local name = LOG .. key
  local newest = redis.pcall('XREVRANGE', name, '+', '-', 'COUNT', 1)
  if newest.err then return nil end
  local number, mark = 0, ''
  if newest[1] then number, mark = string.match(newest[1][1], '^(%d+)-(%d+)$') end
  for i = first, last, 2 do
    if string.sub(ARGV[i], 1, 9) ~= string.sub(mark, 1, 9) or ARGV[i] > mark then
      if phase == 'e' then return nil end
      number = number + 1
      redis.call('XADD', name, string.format('%d-', number) .. ARGV[i], '', ARGV[i + 1])
    end
  end
  redis.call('XTRIM', name, 'MAXLEN', most)
  redis.call('EXPIRE', name, life)
  return number
end

local i = 3
while i <= #ARGV do
  local key, attempt, life, count = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  local phase, feeds = look_at(key, attempt)
  local number = phase and append(key, phase, life, i + 4, i + 3 + 2 * count)
  answer[#answer + 1] = number and 1 or 0
  for feed in string.gmatch(number and feeds or '', '[^,]+') do
    bells[feed] = (bells[feed] or '') .. key .. 'L' .. number .. '\n'
  end
  i = i + 4 + 2 * count
end
for feed, message in pairs(bells) do redis.call('PUBLISH', FEED .. feed, message) end
return answer
