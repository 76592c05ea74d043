-- ff_revoke_lease: takes a lease away from its worker, whatever time it has left. Uses the server's time.
--
-- KEYS      1 core, 2 lease:current, 3 lease:history, 4 lease_expiry, 5 worker leases of the holder
-- ARGV      1 execution_id, 2 the expected lease_id (empty: any), 3 reason
-- Reply     OK, revoked, lease_id, epoch
--           ALREADY_SATISFIED, already_revoked | already_expired
-- Refusals  execution_not_found; execution_not_active, <outcome>, <epoch>, <phase>, <attempt_id>; no_active_lease;
--           stale_lease, <the current lease_id>
-- Publishes nothing.
-- Cost      O(log n) in the size of the indexes, at most 7 commands.
--
-- The entry in the lane's active zset stays: the execution is still active, and can be reclaimed.

local function ff_revoke_lease(keys, args)
  check_arity('ff_revoke_lease', keys, 5, args, 3)
  local core_key, lease_key, history_key, lease_expiry_key, worker_leases_key = unpack(keys)
  local execution_id, expected_lease_id, reason = unpack(args)

  local core = fetch_leased_execution(core_key)
  if not core then
    return refuse('execution_not_found')
  end
  if core.lifecycle_phase ~= 'active' then
    return refuse('execution_not_active', core.terminal_outcome, core.current_lease_epoch, core.lifecycle_phase,
      core.current_attempt_id)
  end
  if core.ownership_state == 'lease_revoked' then
    return already_satisfied('already_revoked')
  end
  if core.ownership_state == 'lease_expired_reclaimable' then
    return already_satisfied('already_expired')
  end
  if core.ownership_state ~= 'leased' then
    return refuse('no_active_lease')
  end
  if expected_lease_id ~= '' and expected_lease_id ~= core.current_lease_id then
    return refuse('stale_lease', core.current_lease_id)
  end

  local now = format_integer(server_now())
  server.call('HSET', core_key, 'ownership_state', 'lease_revoked', 'blocking_reason', 'waiting_for_worker',
    'blocking_detail', 'lease revoked: ' .. reason, 'attempt_state', 'attempt_interrupted', 'lease_revoked_at', now,
    'lease_revoke_reason', reason, 'last_mutation_at', now)
  server.call('DEL', lease_key)
  remove_from_zset(lease_expiry_key, execution_id)
  if not is_placeholder(worker_leases_key) then
    server.call('SREM', worker_leases_key, execution_id)
  end
  add_history_event(history_key, 'revoked', now, 'lease_id', core.current_lease_id, 'lease_epoch',
    core.current_lease_epoch, 'attempt_index', core.current_attempt_index, 'attempt_id', core.current_attempt_id,
    'worker_id', core.current_worker_id, 'worker_instance_id', core.current_worker_instance_id, 'reason', reason)
  return ok('revoked', core.current_lease_id, core.current_lease_epoch)
end

server.register_function{ function_name = 'ff_revoke_lease', callback = ff_revoke_lease }
