-- Looks at tasks: what Redis says of each, in one moment. Writes nothing.
-- ARGV   1 bytes of status lines after which it stops (a long line must not be followed by a hundred others),
--        2 number of lists to search, the lists, then keys
-- Returns {now, then a list for each key that it came to: state, facts, origin, RQ's status, bytes, beginning of the line,
--         life left in ms (-1: no end, -2: no such task), of one that a worker has: 1 when its owner's set has it, its
--         owner's lease, score of its attempt in RQ's wip; scores in finished, failed and expiries, the lists that it
--         stands in, once a place}.
local HEAD = 120  -- bytes: what kind of status it is, and whose
local left, count = tonumber(ARGV[1]), tonumber(ARGV[2])
local answer = {string.format('%.6f', unix_time())}

-- What a stranger has put in the place of ours may be of another type: then it says nothing.
local function ask(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then return false end
  return reply
end

for i = 3 + count, #ARGV do
  local key = ARGV[i]
  local name = TASK .. key
  local f = ask('HMGET', name, 'state', 'facts', 'origin', 'status', 'bytes', 'line') or {'of another type'}
  local attempt, owner = string.match(f[1] or '', '^(%d+) %d+ r (%S*) %S*$')
  local is_held = owner ~= nil
  local queue, line = f[3] or '', f[6] or ''
  local places = {}
  for n = 3, 2 + count do
    for _ = 1, #(ask('LPOS', ARGV[n], key, 'COUNT', 0) or {}) do places[#places + 1] = ARGV[n] end
  end
  answer[#answer + 1] = {f[1], f[2] or false, f[3] or false, f[4] or false, f[5] or false, string.sub(line, 1, HEAD),
    ask('PTTL', name),
    is_held and ask('SISMEMBER', WORKER .. owner .. ':tasks', key) or 0,
    is_held and ask('ZSCORE', WORKERS, owner),
    is_held and ask('ZSCORE', RQ_WIP .. queue, key .. ':' .. attempt),
    ask('ZSCORE', RQ_FINISHED .. queue, key),
    ask('ZSCORE', RQ_FAILED .. queue, key),
    ask('ZSCORE', EXPIRIES, key),
    places}
  left = left - #line
  if left < 0 then break end
end
return answer
