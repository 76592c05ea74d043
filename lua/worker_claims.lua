-- Claims: an eligible execution becomes the running attempt of a worker. ff_claim_execution and ff_issue_grant_and_claim
-- share their KEYS and ARGV, which these functions take as `keys` and `args`.

local CLAIM_KEY_COUNT = 14
local CLAIM_ARG_COUNT = 12
local ATTEMPT_TYPES = { pending_retry_attempt = 'retry', pending_replay_attempt = 'replay' }

-- Returns the milliseconds of an optional argument, or nil if it is '' or 0: neither sets a time.
local function optional_milliseconds(argument)
  local ms = parse_milliseconds(argument)
  return ms ~= 0 and ms or nil
end

-- Returns the times in the arguments of a claim, or nil and a refusal.
local function parse_claim_times(args)
  local lease_ttl_ms = parse_milliseconds(args[7]) or 0
  if lease_ttl_ms == 0 then
    return nil, refuse('invalid_input', 'lease_ttl_ms')
  end
  if is_invalid_milliseconds(args[8]) then
    return nil, refuse('invalid_input', 'renew_before_ms')
  end
  if is_invalid_milliseconds(args[11]) then
    return nil, refuse('invalid_input', 'attempt_timeout_ms')
  end
  if is_invalid_milliseconds(args[12]) then
    return nil, refuse('invalid_input', 'execution_deadline_at')
  end
  return {
    lease_ttl_ms = lease_ttl_ms, renew_before_ms = parse_milliseconds(args[8]) or lease_ttl_ms,
    timeout_ms = optional_milliseconds(args[11]), deadline_ms = optional_milliseconds(args[12]),
  }
end

-- Reads what a claim needs. Returns nil without a record.
local function fetch_claimable(core_key)
  return fetch_fields(core_key, 'lifecycle_phase', 'ownership_state', 'eligibility_state', 'terminal_outcome',
    'attempt_state', 'total_attempt_count', 'current_lease_epoch', 'started_at', 'required_capabilities',
    'lease_expired_at', 'lease_revoked_at')
end

local function is_grantable(core)
  return core.lifecycle_phase == 'runnable' and core.ownership_state == 'unowned'
    and core.eligibility_state == 'eligible_now' and has_no_outcome(core)
end

-- Returns a refusal if the execution's last attempt has not ended.
local function refuse_open_attempt(core)
  if core.attempt_state == 'running_attempt' then
    return refuse('active_attempt_exists')
  end
  return core.attempt_state == 'attempt_interrupted' and refuse('use_claim_resumed_execution') or nil
end

-- Starts an attempt and leases the execution to the worker. Returns the reply.
local function start_attempt(keys, args, core, times, now_ms)
  local core_key, _, eligible_key, lease_expiry_key, worker_leases_key, _, _, _, attempts_key, lease_key, history_key,
    active_key, timeout_key, deadline_key = unpack(keys)
  local execution_id, worker_id, instance_id, lane, _, lease_id, _, _, attempt_id, policy_json = unpack(args)
  local now = format_integer(now_ms)
  local epoch = format_integer(number_or_zero(core.current_lease_epoch) + 1)
  local index = format_integer(number_or_zero(core.total_attempt_count))
  local attempt_type = ATTEMPT_TYPES[core.attempt_state] or 'initial'
  local expires_at = format_integer(now_ms + times.lease_ttl_ms)
  local renew_by = format_integer(now_ms + times.renew_before_ms)
  local attempt_key = 'ff:attempt:' .. string.sub(core_key, #'ff:exec:' + 1, -#'core' - 1) .. index

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
  -- An execution that lost its lease, ended and was replayed: ff_renew_lease would take the mark for this lease's.
  if core.lease_expired_at ~= '' or core.lease_revoked_at ~= '' then
    server.call('HSET', core_key, 'lease_expired_at', '', 'lease_revoked_at', '', 'lease_revoke_reason', '')
  end
  server.call('ZREM', eligible_key, execution_id)
  server.call('ZADD', active_key, expires_at, execution_id)
  record_claim(core_key, lane, now)
  server.call('ZADD', lease_expiry_key, expires_at, execution_id)
  server.call('SADD', worker_leases_key, execution_id)
  if times.timeout_ms then
    add_to_zset(timeout_key, format_integer(now_ms + times.timeout_ms), execution_id)
  end
  if times.deadline_ms then
    add_to_zset(deadline_key, format_integer(times.deadline_ms), execution_id)
  end
  return ok(lease_id, epoch, expires_at, attempt_id, index, attempt_type)
end
