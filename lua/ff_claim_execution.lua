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
-- Cost      O(log n) in the size of the indexes, at most 19 commands.
--
-- Only the record knows the attempt index (total_attempt_count), so the names of the attempt and its policy are derived
-- from KEYS 1. The hash tag stays the same.
--
-- Differences from FlowFabric (contract, sections 6 and 15): the arguments are checked first; the grant must name the
-- worker_instance_id too; the policy is stored as text in one field; the usage hash, created_at of the attempt, and its
-- fields for retry and replay are not written; lease:current also has attempt_index.

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
  if not is_grantable(core) then
    return refuse('execution_not_leaseable', core.lifecycle_phase, core.eligibility_state)
  end
  local refusal = refuse_open_attempt(core)
  if refusal then
    return refusal
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

local function ff_claim_execution(keys, args)
  check_arity('ff_claim_execution', keys, CLAIM_KEY_COUNT, args, CLAIM_ARG_COUNT)
  local core_key, grant_key = unpack(keys)
  local _, worker_id, instance_id = unpack(args)

  local times, refusal = parse_claim_times(args)
  if not times then
    return refusal
  end
  local now_ms = server_now()
  local core = fetch_claimable(core_key)
  refusal = refuse_unless_claimable(core, grant_key, worker_id, instance_id, now_ms)
  if refusal then
    return refusal
  end

  server.call('DEL', grant_key)
  return start_attempt(keys, args, core, times, now_ms)
end

server.register_function{ function_name = 'ff_claim_execution', callback = ff_claim_execution }
