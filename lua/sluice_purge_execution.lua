-- sluice_purge_execution: deletes an execution that has ended, with all of its keys and index entries. Idempotent. Uses the
-- server's time. FlowFabric does not have it.
--
-- KEYS      1 core
-- ARGV      1 execution_id, 2 flow_id (empty: outside any flow), 3 a lane that lists it (may be empty), 4 retention in
--           milliseconds (only read without a flow), 5 edges to delete at most (above 0)
-- Reply     OK, purged
--           OK, more   edges are left: the caller calls again
--           OK, kept, <flow_id in the record>   its retention is not over; or a flow owns it, and ARGV 2 does not name the
--                                               flow or the flow is not being purged
-- Refusals  invalid_input, <argument>; execution_not_terminal
-- Publishes nothing.
-- Cost      O(attempts + edges + log n) in the size of the indexes: about 40 commands, 7 for each attempt, and one for each
--           edge and dep record up to ARGV 5.
--
-- Everything but edges beyond ARGV 5 goes in one call, the record last: a late message never finds a record without its
-- result or its dependencies. The phase is checked in the same call, so that a replayed execution is never lost. An
-- execution without a record, for example one that FlowFabric's trimmer deleted, loses the rest of its keys.
--
-- Without a flow, an execution stays for ARGV 4 after its end, or for its policy's stream_policy.retention_ttl_ms if that
-- is longer. In a flow, the flow decides (sluice_begin_purge).

local function policy_retention_ms(policy_key)
  local policy = decode_json(text_or_empty(server.call('GET', policy_key)))
  local stream_policy = type(policy) == 'table' and policy.stream_policy
  local retention = type(stream_policy) == 'table' and stream_policy.retention_ttl_ms
  return type(retention) == 'number' and retention or 0
end

-- Returns whether an execution outside any flow must be kept.
local function is_retained(core_key, core, retention_ms)
  if core.flow_id ~= '' then
    return true
  end
  local longest = math.max(retention_ms, policy_retention_ms(sibling_key(core_key, 'policy')))
  return number_or_zero(core.completed_at) + longest > server_now()
end

-- Returns whether a member must be kept, because its flow is another one or is not being purged. Sluice 0.1 stored a flow
-- under the spelling of its id that it was given.
local function is_kept_by_flow(core, flow, flow_id)
  local is_of_another = core and core.flow_id ~= '' and string.lower(core.flow_id) ~= string.lower(flow_id)
  return is_of_another or server.call('EXISTS', flow .. 'purged') == 0
end

local function sluice_purge_execution(keys, args)
  check_arity('sluice_purge_execution', keys, 1, args, 5)
  local core_key = keys[1]
  local execution_id, flow_id, lane, retention, limit_text = unpack(args)

  local retention_ms, limit = parse_milliseconds(retention), parse_milliseconds(limit_text) or 0
  if limit == 0 then
    return refuse('invalid_input', 'limit')
  end
  local core = fetch_fields(core_key, 'lifecycle_phase', 'completed_at', 'flow_id', 'lane_id', 'current_lane',
    'total_attempt_count', 'current_worker_instance_id')
  local tag = hash_tag(core_key)
  local exec = string.sub(core_key, 1, -#'core' - 1)
  local flow = flow_id ~= '' and flow_key_of(core_key, flow_id, '') or nil
  if not flow and not retention_ms then
    return refuse('invalid_input', 'retention')
  end
  if core and core.lifecycle_phase ~= 'terminal' then
    return refuse('execution_not_terminal')
  end
  if flow and is_kept_by_flow(core, flow, flow_id) or not flow and core and is_retained(core_key, core, retention_ms) then
    return ok('kept', core and core.flow_id or '')
  end

  if purge_edges(exec, flow, execution_id, limit) then
    return ok('more')
  end
  leave_all_indexes(tag, execution_id, { lane, core and core.lane_id or '', core and core.current_lane or '' })
  if core and core.current_worker_instance_id ~= '' then
    server.call('SREM', 'ff:idx:' .. tag .. ':worker:' .. core.current_worker_instance_id .. ':leases', execution_id)
  end
  purge_attempts(tag, execution_id, core and number_or_zero(core.total_attempt_count) or 0)
  purge_suspensions(tag, exec)
  if flow then
    server.call('UNLINK', flow .. 'in:' .. execution_id, flow .. 'out:' .. execution_id,
      flow .. 'edgegroup:' .. execution_id, flow .. 'edgegroup:' .. execution_id .. ':cancel_claim')
    server.call('SREM', 'ff:idx:' .. tag .. ':pending_cancel_groups', flow_id .. '|' .. execution_id)
    server.call('SREM', flow .. 'pending_cancels', execution_id)
  end
  purge_keys(exec, flow_id)
  if flow then
    server.call('SREM', flow .. 'members', execution_id)
  end
  return ok('purged')
end

server.register_function{ function_name = 'sluice_purge_execution', callback = sluice_purge_execution }
