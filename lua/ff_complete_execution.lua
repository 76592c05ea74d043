-- ff_complete_execution: ends a leased execution with outcome success. Uses the server's time.
--
-- KEYS      1 core, 2 attempt, 3 lease_expiry, 4 worker leases, 5 terminal, 6 lease:current, 7 lease:history,
--           8 active, 9 stream meta, 10 result, 11 attempt_timeout, 12 execution_deadline (9, 11 and 12 may be noop)
-- ARGV      1 execution_id, 2 lease_id, 3 lease_epoch, 4 attempt_id, 5 result_payload (empty: no result is written);
--           callers of the 14-KEYS edition may pass a sixth, which is ignored
-- Reply     OK, completed
-- Refusals  execution_not_found; execution_not_active, <outcome>, <epoch>; lease_revoked; lease_expired; stale_lease
-- Publishes for a flow member: outcome success on ff:dag:completions.
-- Cost      O(log n) in the size of the indexes, at most 19 commands.
--
-- Differences from FlowFabric (contract, section 6): an expired lease is refused but not marked in the record, the sixth
-- argument is ignored, empty lease arguments are a stale lease, and execution_not_active has two details.

local function ff_complete_execution(keys, args)
  check_arity('ff_complete_execution', keys, 12, args, 5)
  local core_key, attempt_key, lease_expiry_key, worker_leases_key, terminal_key, lease_key, history_key,
    active_key, stream_key, result_key, timeout_key, deadline_key = unpack(keys)
  local execution_id, lease_id, lease_epoch, attempt_id, result = unpack(args)

  local now_ms = server_now()
  local core = fetch_owned_execution(core_key)
  local refusal = refuse_unless_owned(core, lease_id, lease_epoch, attempt_id, now_ms)
  if refusal then
    return refusal
  end

  local now = format_integer(now_ms)
  end_attempt(attempt_key, stream_key, now, 'ended_success', 'attempt_success')
  if result ~= '' then
    server.call('SET', result_key, result)
  end
  end_execution(core_key, 'success', 'attempt_terminal', now)
  release_lease(execution_id, core, now, 'completed', {
    lease = lease_key, history = history_key, lease_expiry = lease_expiry_key, worker_leases = worker_leases_key,
    active = active_key, attempt_timeout = timeout_key,
  })
  remove_from_zset(deadline_key, execution_id)
  server.call('ZADD', terminal_key, now, execution_id)
  count_ended_member(core_key, core.flow_id, 'members_completed')
  publish_completion(execution_id, core.flow_id, 'success')
  return ok('completed')
end

server.register_function{ function_name = 'ff_complete_execution', callback = ff_complete_execution }
