-- ff_issue_grant_and_claim: ff_issue_claim_grant and ff_claim_execution in one call, for a worker without capabilities.
-- Uses the server's time.
--
-- KEYS      1 to 14 as in ff_claim_execution
-- ARGV      1 to 12 as in ff_claim_execution
-- Reply     OK, lease_id, epoch, expires_at (ms since the epoch), attempt_id, attempt_index,
--           attempt_type (initial, retry or replay)
-- Refusals  invalid_input, <argument>; execution_not_found; execution_not_eligible, <phase>, <eligibility>;
--           grant_already_exists; execution_not_in_eligible_set; capability_mismatch, <missing capabilities, sorted CSV>;
--           active_attempt_exists; use_claim_resumed_execution
-- Publishes nothing.
-- Cost      O(log n) in the size of the indexes, at most 19 commands.
--
-- Another worker was faster: execution_not_eligible (it has claimed the execution), grant_already_exists (it is about to),
-- execution_not_in_eligible_set. As in ff_issue_claim_grant, capability_mismatch is the one refusal that writes.
--
-- The contract names this function of later versions without its KEYS and ARGV. These are Sluice's own choice, so the
-- function can only be called in Sluice's library.

local function ff_issue_grant_and_claim(keys, args)
  check_arity('ff_issue_grant_and_claim', keys, CLAIM_KEY_COUNT, args, CLAIM_ARG_COUNT)
  local core_key, grant_key, eligible_key = unpack(keys)
  local execution_id = args[1]

  local times, refusal = parse_claim_times(args)
  if not times then
    return refusal
  end
  local core = fetch_claimable(core_key)
  local now_ms = server_now()
  refusal = refuse_unless_grantable(core, core_key, grant_key, eligible_key, execution_id, '', now_ms)
    or refuse_open_attempt(core)
  if refusal then
    return refusal
  end

  return start_attempt(keys, args, core, times, now_ms)
end

server.register_function{ function_name = 'ff_issue_grant_and_claim', callback = ff_issue_grant_and_claim }
