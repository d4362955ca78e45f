-- Reads what a list of tasks shows of each. Writes nothing.
-- ARGV   1 bytes after which it stops (a large result must not be followed by a hundred others), 2 bytes of a status line
--        that are wanted at most, 3 '1' with parameters, then keys
-- Returns a list for each key that it came to: {} when there is no such hash, else
--         {state, facts, origin, name, beginning of the line, key of its retry, parameters or ''}.
local left, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local answer = {}
for i = 4, #ARGV do
  local f = redis.pcall('HMGET', TASK .. ARGV[i], 'state', 'facts', 'origin', 'description', 'line', 'retried_as',
    ARGV[3] == '1' and 'params' or 'state')
  if f.err or not f[1] or not f[5] then
    answer[#answer + 1] = {}
  else
    left = left - #f[5]
    answer[#answer + 1] = {f[1], f[2], f[3], f[4], string.sub(f[5], 1, most), f[6], ARGV[3] == '1' and f[7] or ''}
    if ARGV[3] == '1' then left = left - #(f[7] or '') end
    if left < 0 then break end
  end
end
return answer
