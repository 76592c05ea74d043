-- Grants, which reserve an execution for one worker for a short time.

-- Returns a refusal if the worker lacks a capability that the execution requires. capability_mismatch writes the time of
-- the mismatch; the execution stays where it is, for a worker with the capabilities.
local function refuse_unless_capable(core_key, required_capabilities, capabilities, now_ms)
  local worker_capabilities, refusal = parse_worker_capabilities(capabilities)
  if not worker_capabilities then
    return refusal
  end
  local missing = missing_capabilities(required_capabilities, worker_capabilities)
  if missing ~= '' then
    server.call('HSET', core_key, 'last_capability_mismatch_at', format_integer(now_ms))
    return refuse('capability_mismatch', missing)
  end
  return nil
end

-- Returns a refusal unless the execution can be granted to a worker with these capabilities.
local function refuse_unless_grantable(core, core_key, grant_key, eligible_key, execution_id, capabilities, now_ms)
  if not core then
    return refuse('execution_not_found')
  end
  if not is_grantable(core) then
    return refuse('execution_not_eligible', core.lifecycle_phase, core.eligibility_state)
  end
  if server.call('EXISTS', grant_key) == 1 then
    return refuse('grant_already_exists')
  end
  if not server.call('ZSCORE', eligible_key, execution_id) then
    return refuse('execution_not_in_eligible_set')
  end
  return refuse_unless_capable(core_key, core.required_capabilities, capabilities, now_ms)
end

-- Writes a grant with its expiry. `args` are those of ff_issue_claim_grant.
local function write_grant(grant_key, args, ttl_ms, now_ms)
  local execution_id, worker_id, instance_id, lane_id, capability_hash, _, route, admission, capabilities =
    unpack(args)
  local expires_at = format_integer(now_ms + ttl_ms)
  server.call('HSET', grant_key, 'execution_id', execution_id, 'worker_id', worker_id, 'worker_instance_id',
    instance_id, 'lane_id', lane_id, 'capability_hash', capability_hash, 'route_snapshot_json', route,
    'admission_summary', admission, 'worker_capabilities_csv', capabilities, 'created_at', format_integer(now_ms),
    'grant_expires_at', expires_at)
  server.call('PEXPIREAT', grant_key, expires_at)
end
