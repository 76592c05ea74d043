-- ff_claim_execution: starts an attempt for the worker that holds the grant, and leases the execution to it. Uses the
-- server's time.
--
-- KEYS      1 core, 2 claim_grant, 3 eligible, 4 lease_expiry, 5 worker leases, 6 attempt, 7 attempt usage,
--           8 attempt policy (6 to 8 are not used), 9 attempts, 10 lease:current, 11 lease:history, 12 active,
--           13 attempt_timeout, 14 execution_deadline (6 to 8, 13 and 14 may be noop)
-- ARGV      1 execution_id, 2 worker_id, 3 worker_instance_id, 4 lane, 5 capability_hash (ignored), 6 lease_id,
--           7 lease_ttl_ms (above 0), 8 renew_before_ms (renewal is due this long after the claim; empty: at the expiry),
--           9 attempt_id, 10 attempt_policy_json, 11 attempt_timeout_ms, 12 execution_deadline_at (ms since the
--           epoch; 10 may be empty, 11 and 12 may be empty or 0: no entry)
-- Reply     OK, lease_id, epoch, expires_at (ms since the epoch), attempt_id, attempt_index,
--           attempt_type (initial, retry or replay)
-- Refusals  invalid_input, <argument>; execution_not_found; execution_not_leaseable, <phase>, <eligibility>
--           (before and after lease_conflict); lease_conflict; active_attempt_exists; use_claim_resumed_execution; invalid_claim_grant;
--           claim_grant_expired
-- Publishes nothing.
-- Cost      O(log n) in the size of the indexes, at most 17 commands.
--
-- Only the record knows the attempt index (total_attempt_count), so the names of the attempt and its policy are derived
-- from KEYS 1. The hash tag stays the same.
--
-- Differences from FlowFabric (contract, sections 6 and 15): the arguments are checked first; the grant must name the
-- worker_instance_id too; the policy is stored as text in one field; the usage hash, created_at of the attempt, and its
-- fields for retry and replay are not written; lease:current also has attempt_index.

local ATTEMPT_TYPES = { pending_retry_attempt = 'retry', pending_replay_attempt = 'replay' }

-- Returns a refusal unless the execution can be claimed, and by this worker.
local function refuse_unless_claimable(core, grant_key, worker_id, instance_id, now_ms)
  if not core then
    return refuse('execution_not_found')
  end
  if core.lifecycle_phase ~= 'runnable' then
    return refuse('execution_not_leaseable', core.lifecycle_phase, core.eligibility_state)
  end
  if core.ownership_state ~= 'unowned' then
    return refuse('lease_conflict')
  end
  if core.eligibility_state ~= 'eligible_now' or not has_no_outcome(core) then
    return refuse('execution_not_leaseable', core.lifecycle_phase, core.eligibility_state)
  end
  if core.attempt_state == 'running_attempt' then
    return refuse('active_attempt_exists')
  end
  if core.attempt_state == 'attempt_interrupted' then
    return refuse('use_claim_resumed_execution')
  end
  local grant = fetch_fields(grant_key, 'worker_id', 'worker_instance_id', 'grant_expires_at')
  if not grant or grant.worker_id ~= worker_id or grant.worker_instance_id ~= instance_id then
    return refuse('invalid_claim_grant')
  end
  if number_or_zero(grant.grant_expires_at) <= now_ms then
    return refuse('claim_grant_expired')
  end
  return nil
end

-- Returns the milliseconds of an optional argument, or nil if it is '' or 0: neither sets a time.
local function optional_milliseconds(argument)
  local ms = parse_milliseconds(argument)
  return ms ~= 0 and ms or nil
end

local function ff_claim_execution(keys, args)
  check_arity('ff_claim_execution', keys, 14, args, 12)
  local core_key, grant_key, eligible_key, lease_expiry_key, worker_leases_key, _, _, _, attempts_key, lease_key, history_key, active_key, timeout_key, deadline_key = unpack(keys)
  local execution_id, worker_id, instance_id, lane, _, lease_id, lease_ttl, renew_before, attempt_id, policy_json,
    timeout, deadline_at = unpack(args)

  local lease_ttl_ms = parse_milliseconds(lease_ttl) or 0
  if lease_ttl_ms == 0 then
    return refuse('invalid_input', 'lease_ttl_ms')
  end
  if is_invalid_milliseconds(renew_before) then
    return refuse('invalid_input', 'renew_before_ms')
  end
  if is_invalid_milliseconds(timeout) then
    return refuse('invalid_input', 'attempt_timeout_ms')
  end
  if is_invalid_milliseconds(deadline_at) then
    return refuse('invalid_input', 'execution_deadline_at')
  end
  local now_ms = server_now()
  local core = fetch_fields(core_key, 'lifecycle_phase', 'ownership_state', 'eligibility_state', 'terminal_outcome',
    'attempt_state', 'total_attempt_count', 'current_lease_epoch', 'started_at')
  local refusal = refuse_unless_claimable(core, grant_key, worker_id, instance_id, now_ms)
  if refusal then
    return refusal
  end

  local now = format_integer(now_ms)
  local epoch = format_integer(number_or_zero(core.current_lease_epoch) + 1)
  local index = format_integer(number_or_zero(core.total_attempt_count))
  local attempt_type = ATTEMPT_TYPES[core.attempt_state] or 'initial'
  local expires_at = format_integer(now_ms + lease_ttl_ms)
  local renew_by = format_integer(now_ms + (parse_milliseconds(renew_before) or lease_ttl_ms))
  local timeout_ms, deadline_ms = optional_milliseconds(timeout), optional_milliseconds(deadline_at)
  local attempt_key = 'ff:attempt:' .. string.sub(core_key, #'ff:exec:' + 1, -#'core' - 1) .. index

  server.call('DEL', grant_key)
  server.call('HSET', attempt_key, 'attempt_id', attempt_id, 'execution_id', execution_id, 'attempt_index', index,
    'attempt_type', attempt_type, 'attempt_state', 'started', 'started_at', now, 'lease_id', lease_id,
    'lease_epoch', epoch, 'worker_id', worker_id, 'worker_instance_id', instance_id)
  if policy_json ~= '' then
    server.call('HSET', attempt_key .. ':policy', 'policy_json', policy_json)
  end
  server.call('ZADD', attempts_key, now, index)
  server.call('DEL', lease_key)
  server.call('HSET', lease_key, 'lease_id', lease_id, 'lease_epoch', epoch, 'execution_id', execution_id,
    'attempt_id', attempt_id, 'attempt_index', index, 'worker_id', worker_id, 'worker_instance_id', instance_id,
    'acquired_at', now, 'expires_at', expires_at, 'last_renewed_at', now, 'renewal_deadline', renew_by)
  continue_history(history_key, 'acquired', now, 'lease_id', lease_id, 'lease_epoch', epoch, 'attempt_id', attempt_id,
    'attempt_index', index, 'worker_id', worker_id)
  transition(core_key, active_state(), now, 'current_attempt_index', index, 'current_attempt_id', attempt_id,
    'total_attempt_count', format_integer(number_or_zero(index) + 1), 'current_lease_id', lease_id,
    'current_lease_epoch', epoch, 'current_worker_id', worker_id, 'current_worker_instance_id', instance_id,
    'current_lane', lane, 'lease_acquired_at', now, 'lease_expires_at', expires_at, 'lease_last_renewed_at', now,
    'lease_renewal_deadline', renew_by, 'started_at', core.started_at == '' and now or core.started_at)
  server.call('ZREM', eligible_key, execution_id)
  server.call('ZADD', active_key, expires_at, execution_id)
  server.call('ZADD', lease_expiry_key, expires_at, execution_id)
  server.call('SADD', worker_leases_key, execution_id)
  if timeout_ms then
    add_to_zset(timeout_key, format_integer(now_ms + timeout_ms), execution_id)
  end
  if deadline_ms then
    add_to_zset(deadline_key, format_integer(deadline_ms), execution_id)
  end
  return ok(lease_id, epoch, expires_at, attempt_id, index, attempt_type)
end

server.register_function{ function_name = 'ff_claim_execution', callback = ff_claim_execution }
