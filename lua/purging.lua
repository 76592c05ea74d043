-- Deletes executions: names every key and index entry that an execution can have (contract, sections 3 and 12).

local LANE_INDEXES = { 'eligible', 'delayed', 'active', 'terminal', 'suspended', 'blocked:dependencies',
  'blocked:budget', 'blocked:quota', 'blocked:route', 'blocked:operator' }
local PARTITION_INDEXES = { 'lease_expiry', 'attempt_timeout', 'execution_deadline', 'suspension_timeout' }

-- Removes an execution from every index of its partition. `lanes` may repeat or be empty texts.
local function leave_all_indexes(tag, execution_id, lanes)
  local index = 'ff:idx:' .. tag .. ':'
  local seen = { [''] = true }
  for _, lane in ipairs(lanes) do
    if not seen[lane] then
      seen[lane] = true
      for _, name in ipairs(LANE_INDEXES) do
        server.call('ZREM', index .. 'lane:' .. lane .. ':' .. name, execution_id)
      end
    end
  end
  for _, name in ipairs(PARTITION_INDEXES) do
    server.call('ZREM', index .. name, execution_id)
  end
  server.call('SREM', index .. 'all_executions', execution_id)
end

-- Deletes an attempt, and its entry in the leases of the worker that ran it.
local function purge_attempt(tag, execution_id, attempt_index)
  local attempt = 'ff:attempt:' .. tag .. ':' .. execution_id .. ':' .. attempt_index
  local stream = 'ff:stream:' .. tag .. ':' .. execution_id .. ':' .. attempt_index
  local instance = text_or_empty(server.call('HGET', attempt, 'worker_instance_id'))
  if instance ~= '' then
    server.call('SREM', 'ff:idx:' .. tag .. ':worker:' .. instance .. ':leases', execution_id)
  end
  server.call('UNLINK', attempt, attempt .. ':usage', attempt .. ':policy', attempt .. ':summary', stream,
    stream .. ':meta')
end

-- Deletes all attempts: those that the record counts, and those that the zset lists.
local function purge_attempts(tag, execution_id, attempt_count)
  local listed = server.call('ZRANGE', 'ff:exec:' .. tag .. ':' .. execution_id .. ':attempts', 0, -1)
  for _, attempt_index in ipairs(listed) do
    if number_or_zero(attempt_index) >= attempt_count then
      purge_attempt(tag, execution_id, attempt_index)
    end
  end
  for attempt_index = 0, attempt_count - 1 do
    purge_attempt(tag, execution_id, format_integer(attempt_index))
  end
end

-- Deletes the waitpoints and signals of FlowFabric's suspensions.
local function purge_suspensions(tag, exec)
  for _, waitpoint in ipairs(server.call('SMEMBERS', exec .. 'waitpoints')) do
    local key = 'ff:wp:' .. tag .. ':' .. waitpoint
    server.call('UNLINK', key, key .. ':signals', key .. ':condition')
    server.call('ZREM', 'ff:idx:' .. tag .. ':pending_waitpoint_expiry', waitpoint)
  end
  for _, signal in ipairs(server.call('ZRANGE', exec .. 'signals', 0, -1)) do
    local key = 'ff:signal:' .. tag .. ':' .. signal
    server.call('UNLINK', key, key .. ':payload')
  end
end

-- Deletes up to `limit` edges of a purged flow that lead to an execution, with its dep records. Returns whether there are
-- more. Harmless in parts: once the flow is marked as purged, nothing reads its edges.
local function purge_edges(exec, flow, execution_id, limit)
  local applied = server.call('SPOP', exec .. 'deps:all_edges', limit)
  for _, edge_id in ipairs(applied) do
    server.call('UNLINK', exec .. 'dep:' .. edge_id)
  end
  local staged = flow and server.call('SPOP', flow .. 'in:' .. execution_id, limit) or {}
  for _, edge_id in ipairs(staged) do
    server.call('UNLINK', flow .. 'edge:' .. edge_id)
  end
  return #applied == limit or #staged == limit
end

-- Deletes the keys of an execution, the record among them.
local function purge_keys(exec, flow_id)
  server.call('UNLINK', exec .. 'core', exec .. 'payload', exec .. 'result', exec .. 'policy', exec .. 'tags',
    exec .. 'deps:meta', exec .. 'deps:unresolved', exec .. 'deps:all_edges', exec .. 'lease:current',
    exec .. 'lease:history', exec .. 'claim_grant', exec .. 'attempts', exec .. 'suspension:current',
    exec .. 'waitpoints', exec .. 'signals', exec .. 'cascade', exec .. 'cascade:claim', exec .. 'fan_out',
    exec .. 'depth_limit')
  if flow_id ~= '' then
    server.call('UNLINK', exec .. 'resent:' .. flow_id)
  end
end
