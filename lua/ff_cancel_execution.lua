-- ff_cancel_execution: cancels an execution in any phase but terminal. Uses the server's time.
--
-- KEYS      1 core, 2 attempt, 3 stream meta, 4 lease:current, 5 lease:history, 6 lease_expiry, 7 worker leases,
--           8 suspension:current, 9 waitpoint, 10 waitpoint condition, 11 suspension_timeout, 12 terminal,
--           13 attempt_timeout, 14 execution_deadline, 15 eligible, 16 delayed, 17 blocked:dependencies,
--           18 blocked:budget, 19 blocked:quota, 20 blocked:route, 21 blocked:operator (all may be noop
--           except 1, 6, 12 and 15)
-- ARGV      1 execution_id, 2 reason, 3 source (operator_override: ignore the lease; flow_cascade: do not publish),
--           4 lease_id (empty: no lease is compared), 5 lease_epoch
-- Reply     OK, cancelled, <phase before>
-- Refusals  execution_not_found; execution_not_active, <outcome>, <epoch> (the execution is already terminal); and for
--           an active execution, unless the source is operator_override: lease_revoked; stale_lease
-- Publishes for a flow member, unless the source is flow_cascade: outcome cancelled on ff:dag:completions.
-- Cost      O(log n) in the size of the indexes, at most 28 commands.
--
-- KEYS has no position for the lane's active and suspended zsets, or for the leases of the worker that the record
-- names. Their names are derived from KEYS 15 and KEYS 6. This library never suspends an execution, so KEYS 8 to 10
-- are not touched.
--
-- Differences from FlowFabric (contract, section 6): only a flow member is published, and a suspension is not closed.

-- Returns a refusal if an active execution's lease is revoked, or is not the lease that the caller names.
local function refuse_unless_cancellable(core, source, lease_id, lease_epoch)
  if core.lifecycle_phase ~= 'active' or source == 'operator_override' then
    return nil
  end
  if core.ownership_state == 'lease_revoked' then
    return refuse('lease_revoked')
  end
  if lease_id ~= '' and (core.current_lease_id ~= lease_id or core.current_lease_epoch ~= lease_epoch) then
    return refuse('stale_lease')
  end
  return nil
end

local function ff_cancel_execution(keys, args)
  check_arity('ff_cancel_execution', keys, 21, args, 5)
  local core_key, attempt_key, stream_key, lease_key, history_key, lease_expiry_key, worker_leases_key, _, _, _,
    suspension_timeout_key, terminal_key, timeout_key, deadline_key, eligible_key = unpack(keys)
  local execution_id, reason, source, lease_id, lease_epoch = unpack(args)

  local core = fetch_fields(core_key, 'lifecycle_phase', 'ownership_state', 'terminal_outcome', 'attempt_state',
    'current_attempt_index', 'current_lease_id', 'current_lease_epoch', 'current_worker_instance_id', 'flow_id')
  if not core then
    return refuse('execution_not_found')
  end
  if core.lifecycle_phase == 'terminal' then
    return refuse('execution_not_active', core.terminal_outcome, core.current_lease_epoch)
  end
  local refusal = refuse_unless_cancellable(core, source, lease_id, lease_epoch)
  if refusal then
    return refusal
  end

  local now = format_integer(server_now())
  if has_open_attempt(core) then
    end_attempt(attempt_key, stream_key, now, 'ended_cancelled', 'attempt_cancelled', 'failure_reason',
      'cancelled: ' .. reason)
  end
  local attempt_state = core.current_attempt_index == '' and 'none' or 'attempt_terminal'
  end_execution(core_key, 'cancelled', attempt_state, now, 'cancellation_reason', reason, 'cancelled_by', source == '' and execution_id or source)
  if core.current_lease_id ~= '' then
    release_lease(execution_id, core, now, 'cancelled', {
      lease = lease_key, history = history_key, lease_expiry = lease_expiry_key,
      worker_leases = sibling_key(lease_expiry_key, 'worker:' .. core.current_worker_instance_id .. ':leases'),
      active = sibling_key(eligible_key, 'active'), attempt_timeout = timeout_key,
    })
    if not is_placeholder(worker_leases_key) then
      server.call('SREM', worker_leases_key, execution_id)
    end
  end
  for _, index_key in ipairs({ suspension_timeout_key, deadline_key, sibling_key(eligible_key, 'suspended') }) do
    remove_from_zset(index_key, execution_id)
  end
  for position = 15, 21 do
    remove_from_zset(keys[position], execution_id)
  end
  server.call('ZADD', terminal_key, now, execution_id)
  count_ended_member(core_key, core.flow_id, 'members_cancelled')
  if source ~= 'flow_cascade' then
    publish_completion(execution_id, core.flow_id, 'cancelled')
  end
  return ok('cancelled', core.lifecycle_phase)
end

server.register_function{ function_name = 'ff_cancel_execution', callback = ff_cancel_execution }
