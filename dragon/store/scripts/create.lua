-- Creates tasks for one request or several; all tasks of a request or none: limits, Idempotency-Key, single flight,
-- queues, feed.
-- ARGV   1 date for RQ, 2 life of an ended task in seconds, 3 when the callers have given up (unix time) or '', then
--        requests: account, feed id or '', traceparent or '', idempotency digest or '', digest of the request,
--        most queued, most a minute, most bytes stored ('' = unlimited), number of tasks,
--        then 11 a task: key, line, final '1' or '', name, params, metas, queue, max attempts, timeout s,
--        RQ's life of an ended job in seconds, reuse digest or ''
-- Returns a list for each request:
--   {'new'} when all its tasks were created as given, {'ok', key, seq, final, line, ...} when some were there before,
--   {'limit', which, limit, seconds until it helps to try again, or 0},
--   {'conflict'}: the Idempotency-Key was used with another request, {'late'}: nobody waits any more.
local rq_date, life = ARGV[1], ARGV[2]
local is_late = ARGV[3] ~= '' and unix_time() > tonumber(ARGV[3])
local HEAD, STRIDE = 9, 11
local queues = {}

local function present_values(answer, key, feed)
  local task, n = read(key), #answer
  if task and not task.final then add_feed(task, feed) end
  answer[n + 1], answer[n + 2] = key, task and task.seq or '0'
  answer[n + 3], answer[n + 4] = (task == nil or task.final) and '1' or '0', task and task.line or ''
end

local function repeated(idempotency, request, feed)
  local present = redis.call('GET', IDEMPOTENCY .. idempotency)
  if not present then return nil end
  if string.sub(present, 1, #request) ~= request then return {'conflict'} end
  local answer = {'ok'}
  for key in string.gmatch(string.sub(present, #request + 1), '[^,]+') do present_values(answer, key, feed) end
  return answer
end

-- The limits of an account; what this script has changed itself is not in Redis yet. nil when none stands in the way.
local function limit_reached(account, most_queued, most_a_minute, most_bytes, queued_now, created)
  local minute = ACCOUNT .. account .. ':minute:' .. math.floor(unix_time() / 60)
  if queued_now > 0 and (most_queued ~= '' or most_bytes ~= '') then
    local usage = redis.call('HMGET', ACCOUNT .. account, 'queued', 'bytes')
    local present = tonumber(usage[1] or 0) + (queued[account] or 0)
    if most_queued ~= '' and present + queued_now > tonumber(most_queued) then
      return {'limit', 'tasks_queued', most_queued, 5}
    end
    if most_bytes ~= '' and tonumber(usage[2] or 0) >= tonumber(most_bytes) then
      return {'limit', 'bytes_stored', most_bytes, 0}
    end
  end
  if created > 0 and most_a_minute ~= '' then
    if tonumber(redis.call('GET', minute) or 0) + created > tonumber(most_a_minute) then
      return {'limit', 'tasks_per_minute', most_a_minute, 60 - math.floor(unix_time() % 60)}
    end
    if redis.call('INCRBY', minute, created) == created then redis.call('EXPIRE', minute, 120) end
  end
  return nil
end

-- Creates the task whose arguments begin behind `i`.
local function create(i, account, feed, trace)
  local key, line, final, name, params, metas, queue, max_attempts, timeout, rq_life, reuse = unpack(ARGV, i + 1, i + STRIDE)
  final = final == '1'
  redis.call('HSET', TASK .. key, 'state', final and '0 1 e  ' or '0 1 w  ' .. feed,
    'facts', max_attempts .. ' ' .. account .. ' ' .. reuse .. trace, 'line', line, 'params', params,
    'origin', queue, 'status', final and 'failed' or 'queued', 'description', name,
    'data', '["dragon.worker.rq_job.run",null,["' .. key .. '"],{}]', 'timeout', timeout, 'created_at', rq_date,
    'enqueued_at', rq_date, 'result_ttl', rq_life, 'failure_ttl', rq_life)
  if metas ~= '' then redis.call('HSET', TASK .. key, 'metas', metas) end
  if final then
    redis.call('EXPIRE', TASK .. key, tonumber(life))
    later('ZADD', RQ_FAILED .. queue, math.floor(unix_time()) + tonumber(life), key)  -- of no queue: refused
  else
    queued[account] = (queued[account] or 0) + 1
    if reuse ~= '' then redis.call('SET', REUSE .. reuse, key) end
    if not queues[queue] then later('SADD', RQ_QUEUES, RQ_QUEUE .. queue); queues[queue] = true end
    later('RPUSH', list_for(queue, account), key)
  end
end

-- One request whose arguments begin behind `at`.
local function create_all(at)
  local account, feed, trace, idempotency, request, most_queued, most_a_minute, most_bytes, count =
    unpack(ARGV, at + 1, at + HEAD)
  if is_late then return {'late'} end
  local answer = idempotency ~= '' and repeated(idempotency, request, feed)
  if answer then return answer end

  local first, last = at + HEAD, at + HEAD + (count - 1) * STRIDE
  local keys, is_new, queued_now, created = {}, {}, 0, 0
  for i = first, last, STRIDE do
    local key, reuse = ARGV[i + 1], ARGV[i + STRIDE]
    local present = reuse ~= '' and redis.call('GET', REUSE .. reuse)
    if present and redis.call('EXISTS', TASK .. present) == 1 then key = present end
    keys[#keys + 1] = key
    if redis.call('EXISTS', TASK .. key) == 0 then
      is_new[i] = true
      created = created + 1
      if ARGV[i + 3] == '' then queued_now = queued_now + 1 end
    end
  end
  local refused = limit_reached(account, most_queued, most_a_minute, most_bytes, queued_now, created)
  if refused then return refused end

  local all_new = created == #keys
  answer = {all_new and 'new' or 'ok'}
  for i = first, last, STRIDE do
    if is_new[i] then create(i, account, feed, trace == '' and '' or ' ' .. trace) end
    if not all_new then present_values(answer, keys[(i - first) / STRIDE + 1], feed) end
  end
  if idempotency ~= '' then
    redis.call('SET', IDEMPOTENCY .. idempotency, request .. table.concat(keys, ','), 'EX', 86400)
  end
  return answer
end

local answers, at = {}, 3
while at < #ARGV do
  answers[#answers + 1] = create_all(at)
  at = at + HEAD + ARGV[at + HEAD] * STRIDE
end
commit()
return answers
