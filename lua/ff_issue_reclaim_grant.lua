-- ff_issue_reclaim_grant: reserves an execution whose lease ran out or was revoked for one worker. Uses the server's time.
--
-- KEYS      1 core, 2 claim_grant, 3 lease_expiry (not touched)
-- ARGV      1 to 9 as in ff_issue_claim_grant
-- Reply     OK, execution_id
-- Refusals  invalid_input, grant_ttl_ms; execution_not_found; execution_not_reclaimable, <phase>, <ownership>;
--           grant_already_exists; invalid_capabilities, worker:too_many_bytes | worker:too_many_tokens;
--           capability_mismatch, <missing capabilities, sorted CSV> (writes last_capability_mismatch_at)
-- Publishes nothing.
-- Cost      O(1), at most 5 commands.

local function ff_issue_reclaim_grant(keys, args)
  check_arity('ff_issue_reclaim_grant', keys, 3, args, 9)
  local core_key, grant_key = unpack(keys)
  local execution_id, ttl, capabilities = args[1], args[6], args[9]

  local ttl_ms = parse_milliseconds(ttl) or 0
  if ttl_ms == 0 then
    return refuse('invalid_input', 'grant_ttl_ms')
  end
  local core = fetch_fields(core_key, 'lifecycle_phase', 'ownership_state', 'required_capabilities')
  if not core then
    return refuse('execution_not_found')
  end
  if not is_reclaimable(core) then
    return refuse('execution_not_reclaimable', core.lifecycle_phase, core.ownership_state)
  end
  if server.call('EXISTS', grant_key) == 1 then
    return refuse('grant_already_exists')
  end
  local now_ms = server_now()
  local refusal = refuse_unless_capable(core_key, core.required_capabilities, capabilities, now_ms)
  if refusal then
    return refusal
  end

  write_grant(grant_key, args, ttl_ms, now_ms)
  return ok(execution_id)
end

server.register_function{ function_name = 'ff_issue_reclaim_grant', callback = ff_issue_reclaim_grant }
