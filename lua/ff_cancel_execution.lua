-- ff_cancel_execution: cancels an execution in any phase but terminal. Uses the server's time.
--
-- KEYS      1 core, 2 attempt, 3 stream meta, 4 lease:current, 5 lease:history, 6 lease_expiry, 7 worker leases,
--           8 suspension:current, 9 waitpoint, 10 waitpoint condition, 11 suspension_timeout, 12 terminal,
--           13 attempt_timeout, 14 execution_deadline, 15 eligible, 16 delayed, 17 blocked:dependencies,
--           18 blocked:budget, 19 blocked:quota, 20 blocked:route, 21 blocked:operator
-- ARGV      1 execution_id, 2 reason, 3 source (flow_cascade: do not publish), 4 lease_id, 5 lease_epoch
--           (4 and 5 are ignored: a cancellation needs no lease)
-- Reply     OK, cancelled, <phase before>
-- Refusals  execution_not_found; execution_not_active, <outcome>, <epoch> (the execution is already terminal)
-- Publishes for a flow member, unless the source is flow_cascade: outcome cancelled on ff:dag:completions.
-- Cost      O(log n) in the size of the indexes, at most 25 commands.
--
-- KEYS has no position for the lane's active and suspended zsets, or for the leases of the worker that the record
-- names. Their names are derived from KEYS 15 and KEYS 6. This library never suspends an execution, so KEYS 8 to 10
-- are not touched.

local function ff_cancel_execution(keys, args)
  check_arity('ff_cancel_execution', keys, 21, args, 5)
  local core_key, attempt_key, stream_key, lease_key, history_key, lease_expiry_key, worker_leases_key, _, _, _,
    suspension_timeout_key, terminal_key, timeout_key, deadline_key, eligible_key = unpack(keys)
  local execution_id, reason, source = unpack(args)

  local core = fetch_fields(core_key, 'lifecycle_phase', 'terminal_outcome', 'attempt_state', 'current_lease_id',
    'current_lease_epoch', 'current_worker_instance_id', 'flow_id')
  if not core then
    return refuse('execution_not_found')
  end
  if core.lifecycle_phase == 'terminal' then
    return refuse('execution_not_active', core.terminal_outcome, core.current_lease_epoch)
  end

  local now = format_integer(server_now())
  local attempt_state = 'none'
  if has_open_attempt(core) then
    attempt_state = 'attempt_terminal'
    end_attempt(attempt_key, stream_key, now, 'ended_cancelled', 'attempt_cancelled', 'failure_reason', reason)
  end
  transition(core_key, terminal_state('cancelled', attempt_state), now, 'completed_at', now,
    'cancellation_reason', reason, 'cancelled_by', source, cleared_lease_fields())
  if core.current_lease_id ~= '' then
    release_lease(execution_id, core.current_lease_id, core.current_lease_epoch, now, 'cancelled', {
      lease = lease_key, history = history_key, lease_expiry = lease_expiry_key,
      worker_leases = sibling_key(lease_expiry_key, 'worker:' .. core.current_worker_instance_id .. ':leases'),
      active = sibling_key(eligible_key, 'active'), attempt_timeout = timeout_key,
    })
    server.call('SREM', worker_leases_key, execution_id)
  end
  for _, index_key in ipairs({ suspension_timeout_key, deadline_key, sibling_key(eligible_key, 'suspended') }) do
    server.call('ZREM', index_key, execution_id)
  end
  for position = 15, 21 do
    server.call('ZREM', keys[position], execution_id)
  end
  server.call('ZADD', terminal_key, now, execution_id)
  if source ~= 'flow_cascade' then
    publish_completion(execution_id, core.flow_id, 'cancelled')
  end
  return ok('cancelled', core.lifecycle_phase)
end

server.register_function{ function_name = 'ff_cancel_execution', callback = ff_cancel_execution }
