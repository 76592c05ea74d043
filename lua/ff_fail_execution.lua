-- ff_fail_execution: records a failed attempt. Schedules a retry if the policy allows one, else ends the execution
-- with outcome failed. Uses the server's time.
--
-- KEYS      1 core, 2 attempt, 3 lease_expiry, 4 worker leases, 5 terminal, 6 delayed, 7 lease:current,
--           8 lease:history, 9 active, 10 stream meta, 11 attempt_timeout, 12 execution_deadline (10 to 12 may be
--           noop)
-- ARGV      1 execution_id, 2 lease_id, 3 lease_epoch, 4 attempt_id, 5 failure_reason, 6 failure_category,
--           7 retry_policy_json (empty: no retries); callers of the 14-KEYS edition may pass an eighth, which is
--           ignored
-- Reply     OK, retry_scheduled, <delay_until, ms since the epoch>
--           OK, terminal_failed
-- Refusals  execution_not_found; execution_not_active, <outcome>, <epoch>; lease_revoked; lease_expired; stale_lease
-- Publishes for a flow member without a retry left: outcome failed on ff:dag:completions.
-- Cost      O(log n) in the size of the indexes, at most 18 commands.
--
-- The retry policy has max_retries (default 0) and backoff. backoff is {type: fixed, delay_ms} or {type: exponential,
-- initial_delay_ms, multiplier, max_delay_ms}. With the exponential type, retry n (from 0) waits
-- initial_delay_ms × multiplier^n, at most max_delay_ms. retries.lua has the defaults. A malformed policy means no
-- retry and is not refused: a worker must be able to fail an execution whatever its policy says.
--
-- Differences from FlowFabric (contract, section 6): as in ff_complete_execution.lua; a backoff of an unknown type means
-- no retry, not 1,000 ms; and a final failure also writes failure_category to the record.

local function ff_fail_execution(keys, args)
  check_arity('ff_fail_execution', keys, 12, args, 7)
  local core_key, attempt_key, lease_expiry_key, worker_leases_key, terminal_key, delayed_key, lease_key,
    history_key, active_key, stream_key, timeout_key, deadline_key = unpack(keys)
  local execution_id, lease_id, lease_epoch, attempt_id, reason, category, retry_policy_json = unpack(args)

  local now_ms = server_now()
  local core = fetch_owned_execution(core_key)
  local refusal = refuse_unless_owned(core, lease_id, lease_epoch, attempt_id, now_ms)
  if refusal then
    return refusal
  end
  local retries = number_or_zero(core.retry_count)
  local delay = retry_delay(retry_policy_json, retries)

  local now = format_integer(now_ms)
  end_attempt(attempt_key, stream_key, now, 'ended_failure', 'attempt_failure', 'failure_reason', reason,
    'failure_category', category)
  release_lease(execution_id, core, now, delay and 'failed_retry_scheduled' or 'failed_terminal', {
    lease = lease_key, history = history_key, lease_expiry = lease_expiry_key, worker_leases = worker_leases_key,
    active = active_key, attempt_timeout = timeout_key,
  })
  if delay then
    local delay_until = format_integer(now_ms + delay)
    clear_ownership(core_key)
    transition(core_key, delayed_state('waiting_for_retry_backoff', 'pending_retry_attempt'), now,
      'retry_count', format_integer(retries + 1), 'delay_until', delay_until, 'failure_reason', reason,
      'pending_retry_reason', reason, 'pending_previous_attempt_index', core.current_attempt_index,
      'current_attempt_id', '')
    server.call('ZADD', delayed_key, delay_until, execution_id)
    return ok('retry_scheduled', delay_until)
  end
  end_execution(core_key, 'failed', 'attempt_terminal', now, 'failure_reason', reason, 'failure_category', category)
  remove_from_zset(deadline_key, execution_id)
  server.call('ZADD', terminal_key, now, execution_id)
  count_ended_member(core_key, core.flow_id, 'members_failed')
  publish_completion(execution_id, core.flow_id, 'failed')
  return ok('terminal_failed')
end

server.register_function{ function_name = 'ff_fail_execution', callback = ff_fail_execution }
