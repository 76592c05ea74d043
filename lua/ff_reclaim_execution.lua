-- ff_reclaim_execution: gives an execution whose lease ran out or was revoked to another worker, as a new attempt. Uses
-- the server's time.
--
-- KEYS      1 core, 2 claim_grant, 3 old attempt, 4 old stream meta, 5 new attempt and 6 its usage (placeholders: the
--           function replaces the index), 7 attempts, 8 lease:current, 9 lease:history, 10 lease_expiry, 11 worker leases
--           of the new worker, 12 active, 13 attempt_timeout, 14 execution_deadline
-- ARGV      1 execution_id, 2 worker_id, 3 worker_instance_id, 4 lane, 5 lease_id, 6 lease_ttl_ms (above 0),
--           7 attempt_id, 8 attempt_policy_json (not read), 9 (optional) the limit of reclaims without a policy
-- Reply     OK, lease_id, epoch, expires_at (ms since the epoch), attempt_id, attempt_index, reclaim
-- Refusals  invalid_input, <argument>; execution_not_found; execution_not_reclaimable; invalid_claim_grant;
--           max_retries_exhausted, <limit>: the execution has just failed, so this refusal WRITES
-- Publishes for a flow member that reached the limit: outcome failed on ff:dag:completions.
-- Cost      O(log n) in the size of the indexes, at most 23 commands.
--
-- The limit is the policy's max_reclaim_count, else ARGV 9, else 100. It is checked before the grant, so that a caller
-- without a grant learns whether the limit is reached. The attempt's timeout starts again with the new attempt.

local DEFAULT_RECLAIM_LIMIT = 100

local function reclaim_limit(policy_key, default_limit)
  local policy = decode_json(text_or_empty(server.call('GET', policy_key)))
  local limit = type(policy) == 'table' and policy.max_reclaim_count
  if type(limit) == 'number' then
    return limit
  end
  return tonumber(default_limit) or DEFAULT_RECLAIM_LIMIT
end

-- Ends an execution that was reclaimed too often, and publishes it: its children would wait for a reconciler else.
local function give_up(keys, core, execution_id, now)
  local core_key, lease_key, lease_expiry_key, worker_leases_key, active_key, timeout_key, deadline_key = keys[1],
    keys[8], keys[10], keys[11], keys[12], keys[13], keys[14]
  end_execution(core_key, 'failed', 'attempt_terminal', now, 'failure_reason', 'max_reclaims_exceeded')
  end_attempt(keys[3], keys[4], now, 'ended_failure', 'max_reclaims_exceeded', 'failure_reason', 'max_reclaims_exceeded')
  server.call('DEL', lease_key)
  remove_from_zset(lease_expiry_key, execution_id)
  remove_from_zset(active_key, execution_id)
  remove_from_zset(timeout_key, execution_id)
  remove_from_zset(deadline_key, execution_id)
  server.call('SREM', worker_leases_key, execution_id)
  server.call('SREM', worker_leases_key_of(lease_expiry_key, core), execution_id)
  server.call('ZADD', 'ff:idx:' .. hash_tag(core_key) .. ':lane:' .. core.lane_id .. ':terminal', now, execution_id)
  count_ended_member(core_key, core.flow_id, 'members_failed')
  publish_completion(execution_id, core.flow_id, 'failed')
end

-- Starts the timeout of the attempt again: as long after now as the old one was after the old attempt's start.
local function renew_attempt_timeout(timeout_key, execution_id, old_attempt_key, now_ms)
  if is_placeholder(timeout_key) then
    return
  end
  local ends_at = tonumber(server.call('ZSCORE', timeout_key, execution_id) or nil)
  local started_at = tonumber(text_or_empty(server.call('HGET', old_attempt_key, 'started_at')))
  if ends_at and started_at and ends_at > started_at then
    add_to_zset(timeout_key, format_integer(now_ms + ends_at - started_at), execution_id)
  end
end

local function ff_reclaim_execution(keys, args)
  check_arity('ff_reclaim_execution', keys, 14, args, 8)
  local core_key, grant_key, old_attempt_key, old_stream_key, attempt_placeholder, _, attempts_key, lease_key,
    history_key, lease_expiry_key, worker_leases_key, active_key, timeout_key = unpack(keys)
  local execution_id, worker_id, instance_id, lane, lease_id, lease_ttl, attempt_id, _, default_limit = unpack(args)

  local ttl_ms = parse_milliseconds(lease_ttl) or 0
  if ttl_ms == 0 then
    return refuse('invalid_input', 'lease_ttl_ms')
  end
  local core = fetch_leased_execution(core_key)
  if not core then
    return refuse('execution_not_found')
  end
  if not is_reclaimable(core) then
    return refuse('execution_not_reclaimable', core.lifecycle_phase, core.ownership_state)
  end
  local now_ms = server_now()
  local now = format_integer(now_ms)
  local reclaims = number_or_zero(core.lease_reclaim_count)
  local limit = reclaim_limit(sibling_key(core_key, 'policy'), default_limit)
  if reclaims >= limit then
    give_up(keys, core, execution_id, now)
    return refuse('max_retries_exhausted', format_integer(limit))
  end
  local grant = fetch_fields(grant_key, 'worker_id')
  if not grant or grant.worker_id ~= worker_id then
    return refuse('invalid_claim_grant')
  end

  local index = format_integer(number_or_zero(core.total_attempt_count))
  local epoch = format_integer(number_or_zero(core.current_lease_epoch) + 1)
  local expires_at, renew_by = format_integer(now_ms + ttl_ms), renewal_deadline(now_ms, ttl_ms)
  local reason = 'lease_' .. core.ownership_state
  server.call('DEL', grant_key)
  server.call('HSET', old_attempt_key, 'attempt_state', 'interrupted_reclaimed', 'ended_at', now, 'failure_reason',
    reason)
  if not is_placeholder(old_stream_key) and server.call('EXISTS', old_stream_key) == 1 then
    server.call('HSET', old_stream_key, 'closed_at', now, 'closed_reason', 'reclaimed')
  end
  server.call('HSET', sibling_key(attempt_placeholder, index), 'attempt_id', attempt_id, 'execution_id', execution_id,
    'attempt_index', index, 'attempt_type', 'reclaim', 'attempt_state', 'started', 'created_at', now, 'started_at', now,
    'lease_id', lease_id, 'lease_epoch', epoch, 'worker_id', worker_id, 'worker_instance_id', instance_id,
    'reclaim_reason', reason, 'previous_attempt_index', core.current_attempt_index)
  server.call('ZADD', attempts_key, now, index)
  renew_attempt_timeout(timeout_key, execution_id, old_attempt_key, now_ms)
  server.call('DEL', lease_key)
  server.call('HSET', lease_key, 'lease_id', lease_id, 'lease_epoch', epoch, 'execution_id', execution_id,
    'attempt_id', attempt_id, 'worker_id', worker_id, 'worker_instance_id', instance_id, 'acquired_at', now,
    'expires_at', expires_at, 'last_renewed_at', now, 'renewal_deadline', renew_by)
  transition(core_key, active_state(), now, 'current_attempt_index', index, 'current_attempt_id', attempt_id,
    'total_attempt_count', format_integer(number_or_zero(index) + 1), 'lease_reclaim_count',
    format_integer(reclaims + 1), 'current_lease_id', lease_id, 'current_lease_epoch', epoch, 'current_worker_id',
    worker_id, 'current_worker_instance_id', instance_id, 'current_lane', lane, 'lease_acquired_at', now,
    'lease_expires_at', expires_at, 'lease_last_renewed_at', now, 'lease_renewal_deadline', renew_by,
    'lease_expired_at', '', 'lease_revoked_at', '', 'lease_revoke_reason', '')
  server.call('SREM', worker_leases_key_of(lease_expiry_key, core), execution_id)
  server.call('SADD', worker_leases_key, execution_id)
  add_to_zset(lease_expiry_key, expires_at, execution_id)
  add_to_zset(active_key, expires_at, execution_id)
  record_claim(core_key, lane, now)
  add_history_event(history_key, 'reclaimed', now, 'old_lease_epoch', core.current_lease_epoch, 'new_lease_id', lease_id,
    'new_lease_epoch', epoch, 'new_attempt_id', attempt_id, 'new_attempt_index', index, 'worker_id', worker_id)
  return ok(lease_id, epoch, expires_at, attempt_id, index, 'reclaim')
end

server.register_function{ function_name = 'ff_reclaim_execution', callback = ff_reclaim_execution }
