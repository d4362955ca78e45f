-- Adds what a process has measured to this minute, this quarter of an hour and the totals: once, however often it is sent.
-- ARGV   1 process, 2 number of the flush, 3 seconds for which the process may send it again,
--        4 number of task names, the names, then 2 a field: its name, what to add
-- Returns 1 added, 0 it was there already.
local flushed = MEASURES .. 'flushed:' .. ARGV[1]
if tonumber(redis.call('GET', flushed) or 0) >= tonumber(ARGV[2]) then return 0 end
redis.call('SET', flushed, ARGV[2], 'EX', ARGV[3])

local first = 5 + ARGV[4]
local totals = MEASURES .. 'totals'
local minute = MEASURES .. 'minute:' .. math.floor(unix_time() / 60)
local quarter = MEASURES .. 'quarter:' .. math.floor(unix_time() / 900)
for i = 5, first - 1 do redis.call('SADD', MEASURES .. 'names', ARGV[i]) end
for i = first, #ARGV, 2 do
  redis.call('HINCRBY', minute, ARGV[i], ARGV[i + 1])
  redis.call('HINCRBY', quarter, ARGV[i], ARGV[i + 1])
  redis.call('HINCRBY', totals, ARGV[i], ARGV[i + 1])
end
redis.call('EXPIRE', minute, 75 * 60)
redis.call('EXPIRE', quarter, 100 * 900)
return 1
