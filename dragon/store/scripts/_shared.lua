-- Put in front of every script, after the names. What happens to a task when it changes hands or ends.
-- Speed: each task is read once a script (`read`), what many tasks do to the same key is sent together (`commit`), and
-- a task's small values share two fields, since a script pays half a microsecond for each field that it reads or writes:
--   facts  'MAX ACCOUNT REUSE', or with ' TRACEPARENT': most attempts, account, digest for single flight or '', the
--          caller's place in a trace; they never change
--   state  'ATTEMPT SEQ PHASE OWNER FEEDS': the phase is w (waiting), r (a worker has it) or e (ended)

local now  -- a script's time stands still

local function unix_time()
  if not now then
    local t = redis.call('TIME')
    now = tonumber(t[1]) + tonumber(t[2]) / 1000000
  end
  return now
end

local batches, order = {}, {}  -- command -> key -> batch

-- Keeps one argument, or a pair, for one command on one key until `commit`.
local function later(command, name, first, second)
  local by_name = batches[command]
  if not by_name then by_name = {}; batches[command] = by_name end
  local batch = by_name[name]
  if not batch then
    batch = {command, name, {}}
    by_name[name] = batch
    order[#order + 1] = batch
  end
  local arguments = batch[3]
  local n = #arguments
  arguments[n + 1] = first
  if second then arguments[n + 2] = second end
end

local queued = {}  -- account -> by how much the number of its queued tasks changes

-- That number follows the task's own phase, so it is exact however often a script runs.
local function set_phase(task, phase)
  if task.phase == 'w' and phase ~= 'w' then queued[task.account] = (queued[task.account] or 0) - 1 end
  if task.phase ~= 'w' and phase == 'w' then queued[task.account] = (queued[task.account] or 0) + 1 end
  task.phase = phase
end

-- Writes a task's state and, in the same command, other fields.
local function save(task, ...)
  redis.call('HSET', TASK .. task.key, 'state',
    task.attempt .. ' ' .. task.seq .. ' ' .. task.phase .. ' ' .. task.owner .. ' ' .. task.feeds, ...)
end

local unsaved = {}  -- key -> a task whose newest line is not stored yet: another may replace it in the same script

local messages, listeners = {}, {}  -- by feed: lines, tasks

local function announce(task, final)
  if task.feeds == '' then return end
  local message = task.key .. (final and 'F' or '.') .. task.seq .. ' ' .. task.line .. '\n'
  for feed in string.gmatch(task.feeds, '[^,]+') do
    if not messages[feed] then messages[feed] = {}; listeners[feed] = {} end
    messages[feed][#messages[feed] + 1] = message
    listeners[feed][task] = true
  end
end

local function publish()
  for feed, lines in pairs(messages) do
    if redis.call('PUBLISH', FEED .. feed, table.concat(lines)) == 0 then
      -- Nobody listens: the server is gone. (One that only lost its connection registers again when it is back.)
      for task in pairs(listeners[feed]) do
        local rest = {}
        for other in string.gmatch(task.feeds, '[^,]+') do
          if other ~= feed then table.insert(rest, other) end
        end
        task.feeds = table.concat(rest, ',')
        save(task)
      end
    end
  end
end

-- Sends what was kept for later, then the announcements: a line is stored before anybody hears of it.
local function commit()
  for _, task in pairs(unsaved) do save(task, 'line', task.line) end
  for account, change in pairs(queued) do
    if change ~= 0 then redis.call('HINCRBY', ACCOUNT .. account, 'queued', change) end
  end
  local CHUNK = 1000  -- arguments; even, for those that come in pairs
  for _, batch in ipairs(order) do
    for first = 1, #batch[3], CHUNK do
      redis.call(batch[1], batch[2], unpack(batch[3], first, math.min(first + CHUNK - 1, #batch[3])))
    end
  end
  publish()
end

-- Where waiting tasks stand: queues are fair across accounts. The RQ list of a queue holds one account's tasks; while they
-- wait, those of others wait in lanes beside it, lists of their own (QUEUE@ACCOUNT), from which workers take in turns.
-- The own list is never empty while there are lanes: the next one takes its place. So with one account, and whenever
-- nothing waits, there are none, and a worker that waits for the own list misses nothing.

local pushed = {}  -- lists that get something with `commit`

local function is_there(list)
  return pushed[list] or redis.call('EXISTS', list) == 1
end

local function lane_of(queue, account)
  return RQ_QUEUE .. queue .. LANE_MARK .. account
end

-- Puts the next lane in the place of the queue's own list, if that one is empty. One account alone needs no turns.
local function promote(queue)
  local own, turns = RQ_QUEUE .. queue, TURNS .. queue
  if redis.call('EXISTS', turns) == 0 then return end  -- then there are no lanes: nearly always, so it is asked first
  if not is_there(own) then redis.call('LREM', turns, 0, redis.call('GET', LANE .. queue) or '') end
  while not is_there(own) do
    local account = redis.call('LPOP', turns)
    if not account then return end
    local lane = lane_of(queue, account)
    if redis.call('EXISTS', lane) == 1 then
      redis.call('RENAME', lane, own)
      redis.call('SREM', RQ_QUEUES, lane)
      redis.call('SET', LANE .. queue, account)
      redis.call('LPUSH', turns, account)  -- it keeps its turn
    end
  end
  if redis.call('LLEN', turns) == 1 then redis.call('DEL', turns) end
end

-- A task has left its list other than by its turn.
local function leave_lane(queue, account)
  local lane = lane_of(queue, account)
  if redis.call('EXISTS', lane) == 0 and redis.call('SREM', RQ_QUEUES, lane) == 1 then
    redis.call('LREM', TURNS .. queue, 0, account)
  end
  promote(queue)
end

local NOBODY = '-'  -- in place of an account: what RQ's own commands have put into an empty list

local own_accounts = {}  -- queue -> the account whose tasks stand in the own list, once that is settled in this script

local function settle_own_account(queue, account)
  promote(queue)
  local own = redis.call('GET', LANE .. queue)
  local settled = is_there(RQ_QUEUE .. queue) and (own or NOBODY) or account
  if settled ~= own then redis.call('SET', LANE .. queue, settled) end
  own_accounts[queue] = settled
  pushed[RQ_QUEUE .. queue] = true
end

-- The list that an account's task is to be put into.
local function list_for(queue, account)
  if not own_accounts[queue] then settle_own_account(queue, account) end
  local own, lane = own_accounts[queue], lane_of(queue, account)
  if own == account then return RQ_QUEUE .. queue end
  if not is_there(lane) then
    local turns = TURNS .. queue
    if redis.call('EXISTS', turns) == 0 then redis.call('RPUSH', turns, own) end
    redis.call('LREM', turns, 0, account)
    redis.call('RPUSH', turns, account)
    redis.call('SADD', RQ_QUEUES, lane)
  end
  pushed[lane] = true
  return lane
end

local known = {}

-- The task as a table, nil when there is none. `whole`: with what its execution needs.
-- What is not as dragon writes it is no task, whatever stands there: keys become names of folders, accounts parts of names.
local function read(key, whole)
  if known[key] then return known[key] end
  if #key ~= 26 or string.find(key, '[^A-Z2-7]') then return nil end
  local f  -- pcall: a stranger's key may be of another type
  if whole then f = redis.pcall('HMGET', TASK .. key, 'state', 'facts', 'line', 'origin', 'description', 'params')
  else f = redis.pcall('HMGET', TASK .. key, 'state', 'facts', 'line', 'origin') end
  if f.err then return nil end
  local attempt, seq, phase, owner, feeds = string.match(f[1] or '', '^(%d+) (%d+) ([wre]) (%S*) (%S*)$')
  local max, account, reuse, trace = string.match(f[2] or '', '^(%d+) ([%w_-]*) ([%w_-]*) ?([%w-]*)$')
  if not (attempt and max and f[3] and f[4]) or #attempt > 9 or #seq > 9 or #max > 9 then return nil end
  if whole and not (f[5] and f[6]) then return nil end
  known[key] = {key = key, attempt = attempt, seq = seq, phase = phase, final = phase == 'e', owner = owner, feeds = feeds,
    max = max, account = account, reuse = reuse, trace = trace, line = f[3], queue = f[4], name = f[5], params = f[6]}
  return known[key]
end

-- Adds a server to those that follow the task; one that has died since its last line goes.
local function add_feed(task, feed)
  if feed == '' or string.find(',' .. task.feeds .. ',', ',' .. feed .. ',', 1, true) then return end
  local feeds = {}
  for other in string.gmatch(task.feeds, '[^,]+') do
    if redis.call('PUBSUB', 'NUMSUB', FEED .. other)[2] > 0 then table.insert(feeds, other) end
  end
  table.insert(feeds, feed)
  task.feeds = table.concat(feeds, ',')
  save(task)
end

-- Stores a line as the task's newest and announces it.
local function store(task, line)
  task.seq, task.line = task.seq + 1, line
  unsaved[task.key] = task
  announce(task, false)
end

-- Ends a task for good. `bytes` is the size of its output files, -1 without any. `with_rq`: keep RQ's registries too.
local function finish(task, kind, line, life, bytes, rq_date, with_rq, exc_info)
  local key, expires, ok = task.key, math.floor(unix_time()) + life, kind == 'success'
  set_phase(task, 'e')
  task.seq, task.line, task.final = task.seq + 1, line, true
  unsaved[key] = nil
  announce(task, true)
  task.feeds = ''  -- nobody follows what is over
  if with_rq then
    save(task, 'line', line, 'status', ok and 'finished' or 'failed', 'ended_at', rq_date)
    if exc_info ~= '' then redis.call('HSET', TASK .. key, 'exc_info', exc_info) end
    later('ZREM', RQ_WIP .. task.queue, key .. ':' .. task.attempt)
    later('ZADD', (ok and RQ_FINISHED or RQ_FAILED) .. task.queue, expires, key)
  else
    save(task, 'line', line)
  end
  if task.owner ~= '' then later('SREM', WORKER .. task.owner .. ':tasks', key) end
  if bytes >= 0 then
    redis.call('HSET', TASK .. key, 'bytes', bytes)
    redis.call('HINCRBY', ACCOUNT .. task.account, 'bytes', bytes)
    later('ZADD', EXPIRIES, expires, key)  -- the sweep removes it, after its files
  else
    redis.call('EXPIRE', TASK .. key, life)
  end
  if task.reuse ~= '' and redis.pcall('GET', REUSE .. task.reuse) == key then
    if ok then redis.call('EXPIRE', REUSE .. task.reuse, life) else redis.call('DEL', REUSE .. task.reuse) end
  end
end

-- Puts a task that nobody works on any more back to the front of its queue. `uncount`: this attempt never really started.
local function requeue(task, uncount)
  local key, attempt = task.key, task.attempt
  later('SREM', WORKER .. task.owner .. ':tasks', key)
  later('ZREM', RQ_WIP .. task.queue, key .. ':' .. attempt)
  later('ZREM', RQ_FAILED .. task.queue, key)
  task.owner, task.attempt = '', uncount and string.format('%d', attempt - 1) or attempt
  set_phase(task, 'w')
  save(task, 'status', 'queued')
  redis.call('PERSIST', TASK .. key)
  redis.call('LPUSH', list_for(task.queue, task.account), key)
end

local MOST_ATTEMPTS = 20  -- that are remembered of a task

-- Remembers an attempt that has ended without ending its task; `date` is now. One that has not begun leaves nothing.
local function note_attempt(task, date, ending)
  local started = string.match(string.sub(task.line, 1, 250), '^{"status":"executing".-"started":"([^"]+)"')
  if not started then return end
  local ok, attempts = pcall(cjson.decode, redis.call('HGET', TASK .. task.key, 'attempts') or '[]')
  if not ok or type(attempts) ~= 'table' then attempts = {} end
  local last = attempts[#attempts]
  if type(last) == 'table' and last.started == started then return end  -- the line is still that of an earlier attempt
  attempts[#attempts + 1] = {attempt = tonumber(task.attempt), worker = task.owner, started = started, ended = date,
    ending = ending}
  if #attempts > MOST_ATTEMPTS then table.remove(attempts, 1) end
  redis.call('HSET', TASK .. task.key, 'attempts', cjson.encode(attempts))
end

-- Gives a queued task to a worker: its attempt is counted from here. What follows are more fields and their values.
local function take(task, owner, ...)
  task.owner, task.attempt = owner, string.format('%d', task.attempt + 1)
  set_phase(task, 'r')
  save(task, ...)
  later('SADD', WORKER .. owner .. ':tasks', task.key)
end

-- Whether a worker may still speak for a task: the fence.
local function belongs(task, owner, attempt)
  return task and task.owner == owner and task.attempt == attempt
end
