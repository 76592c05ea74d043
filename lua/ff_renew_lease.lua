-- ff_renew_lease: extends the lease of a running attempt. Uses the server's time.
--
-- KEYS      1 core, 2 lease:current, 3 lease:history, 4 lease_expiry
-- ARGV      1 execution_id, 2 attempt_index, 3 attempt_id, 4 lease_id, 5 lease_epoch, 6 lease_ttl_ms (above 0),
--           7 history_grace_ms: how long lease:current outlives the lease
-- Reply     OK, expires_at (ms since the epoch)
-- Refusals  invalid_input, <argument>; execution_not_found; fence_required; partial_fence_triple;
--           execution_not_active, <outcome>, <epoch>, <phase>, <attempt_id>; lease_revoked; lease_expired (marks the
--           lease as expired); stale_lease
-- Publishes nothing.
-- Cost      O(log n) in the size of lease_expiry, at most 5 commands.

local function ff_renew_lease(keys, args)
  check_arity('ff_renew_lease', keys, 4, args, 7)
  local core_key, lease_key, history_key, lease_expiry_key = unpack(keys)
  local execution_id, attempt_index, attempt_id, lease_id, lease_epoch, lease_ttl, history_grace = unpack(args)

  local ttl_ms, grace_ms = parse_milliseconds(lease_ttl) or 0, parse_milliseconds(history_grace)
  if ttl_ms == 0 then
    return refuse('invalid_input', 'lease_ttl_ms')
  end
  if not grace_ms then
    return refuse('invalid_input', 'history_grace_ms')
  end
  local core = fetch_leased_execution(core_key)
  if not core then
    return refuse('execution_not_found')
  end
  local refusal = refuse_unless_fenced(lease_id, lease_epoch, attempt_id)
  if refusal then
    return refusal
  end
  if core.lifecycle_phase ~= 'active' then
    return refuse('execution_not_active', core.terminal_outcome, core.current_lease_epoch, core.lifecycle_phase,
      core.current_attempt_id)
  end
  if core.ownership_state == 'lease_revoked' or core.lease_revoked_at ~= '' then
    return refuse('lease_revoked')
  end
  local now_ms = server_now()
  local now = format_integer(now_ms)
  if core.ownership_state == 'lease_expired_reclaimable' then
    return refuse('lease_expired')
  end
  if number_or_zero(core.lease_expires_at) <= now_ms then
    mark_lease_expired(core_key, history_key, core, now)
    return refuse('lease_expired')
  end
  if core.current_attempt_index ~= attempt_index or core.current_attempt_id ~= attempt_id
    or core.current_lease_id ~= lease_id or core.current_lease_epoch ~= lease_epoch then
    return refuse('stale_lease')
  end

  local expires_at = format_integer(now_ms + ttl_ms)
  local renew_by = renewal_deadline(now_ms, ttl_ms)
  server.call('HSET', core_key, 'lease_expires_at', expires_at, 'lease_last_renewed_at', now, 'lease_renewal_deadline',
    renew_by, 'last_mutation_at', now)
  server.call('HSET', lease_key, 'expires_at', expires_at, 'last_renewed_at', now, 'renewal_deadline', renew_by)
  server.call('PEXPIREAT', lease_key, format_integer(now_ms + ttl_ms + grace_ms))
  add_to_zset(lease_expiry_key, expires_at, execution_id)
  return ok(expires_at)
end

server.register_function{ function_name = 'ff_renew_lease', callback = ff_renew_lease }
