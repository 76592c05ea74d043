-- ff_issue_claim_grant: reserves an eligible execution for one worker until the grant expires. Uses the server's time.
--
-- KEYS      1 core, 2 claim_grant, 3 eligible (read only: ff_claim_execution removes the execution)
-- ARGV      1 execution_id, 2 worker_id, 3 worker_instance_id, 4 lane_id, 5 capability_hash,
--           6 grant_ttl_ms (above 0), 7 route_snapshot_json, 8 admission_summary, 9 worker_capabilities_csv
--           (at most 256 and 4,096 bytes; 5 and 7 to 9 are stored as given)
-- Reply     OK, execution_id
-- Refusals  invalid_input, grant_ttl_ms; execution_not_found; execution_not_eligible, <phase>, <eligibility>;
--           grant_already_exists; execution_not_in_eligible_set; invalid_capabilities, worker:too_many_bytes |
--           worker:too_many_tokens; capability_mismatch, <missing capabilities, sorted CSV>
-- Publishes nothing.
-- Cost      O(1), at most 6 commands.
--
-- capability_mismatch is the one refusal here that writes: last_capability_mismatch_at of the record. The execution stays
-- in the eligible zset, and a worker with the capabilities can take it.
--
-- Differences from FlowFabric (contract, section 6): grant_ttl_ms must be above 0, and execution_not_eligible has
-- details.

local function ff_issue_claim_grant(keys, args)
  check_arity('ff_issue_claim_grant', keys, 3, args, 9)
  local core_key, grant_key, eligible_key = unpack(keys)
  local execution_id, ttl, capabilities = args[1], args[6], args[9]

  local ttl_ms = parse_milliseconds(ttl) or 0
  if ttl_ms == 0 then
    return refuse('invalid_input', 'grant_ttl_ms')
  end
  local core = fetch_fields(core_key, 'lifecycle_phase', 'ownership_state', 'eligibility_state', 'terminal_outcome',
    'required_capabilities')
  local now_ms = server_now()
  local refusal = refuse_unless_grantable(core, core_key, grant_key, eligible_key, execution_id, capabilities, now_ms)
  if refusal then
    return refusal
  end

  write_grant(grant_key, args, ttl_ms, now_ms)
  return ok(execution_id)
end

server.register_function{ function_name = 'ff_issue_claim_grant', callback = ff_issue_claim_grant }
