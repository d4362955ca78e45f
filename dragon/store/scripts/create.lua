-- Creates tasks, all of them or none: limits, Idempotency-Key, single flight, queues, feed.
-- ARGV   1 account, 2 feed id or '', 3 idempotency digest or '', 4 digest of the request, 5 date for RQ,
--        6 most queued, 7 most a minute, 8 most bytes stored ('' = unlimited), 9 life of an ended task in seconds,
--        10 when the caller has given up (unix time) or '', then 11 a task: key, line, final '1' or '', name,
--        params, metas, queue, max attempts, timeout s, RQ's life of an ended job in seconds, reuse digest or ''
-- Returns {'new'} when all were created as given, {'ok', key, seq, final, line, ...} when some were there before,
--         {'limit', which, limit, seconds until it helps to try again, or 0}
--         or {'conflict'}: the Idempotency-Key was used with another request, or {'late'}: nobody waits any more.
local account, feed, idempotency, request, rq_date = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local FIRST, STRIDE = 11, 11
local answer = {'ok'}
if ARGV[10] ~= '' and unix_time() > tonumber(ARGV[10]) then return {'late'} end

local function give(key, seq, final, line)
  local n = #answer
  answer[n + 1], answer[n + 2], answer[n + 3], answer[n + 4] = key, seq, final, line
end

local function give_present(key)
  local task = read(key)
  if not task then return give(key, '0', '1', '') end
  if not task.final then add_feed(task, feed) end
  give(key, task.seq, task.final and '1' or '0', task.line)
end

if idempotency ~= '' then
  local present = redis.call('GET', IDEMPOTENCY .. idempotency)
  if present then
    if string.sub(present, 1, #request) ~= request then return {'conflict'} end
    for key in string.gmatch(string.sub(present, #request + 1), '[^,]+') do give_present(key) end
    return answer
  end
end

local keys, is_new, queued_now, created, all_new = {}, {}, 0, 0, true
for i = FIRST, #ARGV, STRIDE do
  local key, reuse = ARGV[i], ARGV[i + 10]
  local present = reuse ~= '' and redis.call('GET', REUSE .. reuse)
  if present and redis.call('EXISTS', TASK .. present) == 1 then key = present end
  table.insert(keys, key)
  if redis.call('EXISTS', TASK .. key) == 0 then
    is_new[i] = true
    created = created + 1
    if ARGV[i + 2] == '' then queued_now = queued_now + 1 end
  else
    all_new = false
  end
end

local usage = (ARGV[6] ~= '' or ARGV[8] ~= '') and redis.call('HMGET', ACCOUNT .. account, 'queued', 'bytes')
local minute = ACCOUNT .. account .. ':minute:' .. math.floor(unix_time() / 60)
if queued_now > 0 and ARGV[6] ~= '' and tonumber(usage[1] or 0) + queued_now > tonumber(ARGV[6]) then
  return {'limit', 'tasks_queued', ARGV[6], 5}
end
if created > 0 and ARGV[7] ~= '' and tonumber(redis.call('GET', minute) or 0) + created > tonumber(ARGV[7]) then
  return {'limit', 'tasks_per_minute', ARGV[7], 60 - math.floor(unix_time() % 60)}
end
if queued_now > 0 and ARGV[8] ~= '' and tonumber(usage[2] or 0) >= tonumber(ARGV[8]) then
  return {'limit', 'bytes_stored', ARGV[8], 0}
end

local queues = {}
for i = FIRST, #ARGV, STRIDE do
  local key, line, final, queue, reuse = ARGV[i], ARGV[i + 1], ARGV[i + 2] == '1', ARGV[i + 6], ARGV[i + 10]
  if not is_new[i] then
    give_present(keys[(i - FIRST) / STRIDE + 1])
  else
    redis.call('HSET', TASK .. key, 'state', final and '0 1 e  ' or '0 1 w  ' .. feed,
      'facts', ARGV[i + 7] .. ' ' .. account .. ' ' .. reuse, 'line', line, 'params', ARGV[i + 4],
      'origin', queue, 'status', final and 'failed' or 'queued', 'description', ARGV[i + 3],
      'data', '["dragon.worker.rq_job.run",null,["' .. key .. '"],{}]', 'timeout', ARGV[i + 8], 'created_at', rq_date,
      'enqueued_at', rq_date, 'result_ttl', ARGV[i + 9], 'failure_ttl', ARGV[i + 9])
    if ARGV[i + 5] ~= '' then redis.call('HSET', TASK .. key, 'metas', ARGV[i + 5]) end
    if final then
      redis.call('EXPIRE', TASK .. key, tonumber(ARGV[9]))
    else
      queued[account] = (queued[account] or 0) + 1
      if reuse ~= '' then redis.call('SET', REUSE .. reuse, key) end
      if not queues[queue] then later('SADD', RQ_QUEUES, RQ_QUEUE .. queue); queues[queue] = true end
      later('RPUSH', RQ_QUEUE .. queue, key)
    end
    if not all_new then give(key, '1', final and '1' or '0', line) end
  end
end
if created > 0 and ARGV[7] ~= '' and redis.call('INCRBY', minute, created) == created then
  redis.call('EXPIRE', minute, 120)
end
if idempotency ~= '' then redis.call('SET', IDEMPOTENCY .. idempotency, request .. table.concat(keys, ','), 'EX', 86400) end
commit()
return all_new and {'new'} or answer
