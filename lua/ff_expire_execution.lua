-- ff_expire_execution: ends an execution whose attempt timeout or deadline has passed, with outcome expired. Never
-- refuses. Uses the server's time.
--
-- KEYS      1 core, 2 attempt, 3 stream meta, 4 lease:current, 5 lease:history, 6 lease_expiry, 7 worker leases,
--           8 active, 9 terminal, 10 attempt_timeout, 11 execution_deadline, 12 suspended, 13 suspension_timeout,
--           14 suspension:current
-- ARGV      1 execution_id, 2 reason (attempt_timeout if absent, or execution_deadline), 3 (optional) the score that the
--           caller read in the zset of that reason
-- Reply     OK, expired, <phase before>
--           OK, not_found_cleaned | already_terminal   both timeout entries are removed
--           OK, not_due   with ARGV 3: the zset has another score or none, or its time has not come
-- Publishes for a flow member: outcome expired on ff:dag:completions.
-- Cost      O(log n) in the size of the indexes, at most 28 commands.
--
-- Without ARGV 3 the function does not check that anything is due, like FlowFabric's: a caller that read the zset earlier
-- could end a younger attempt. There is no retry, whatever the policy says.

local function is_due(key, execution_id, score, now_ms)
  local recorded = server.call('ZSCORE', key, execution_id)
  return recorded and tonumber(recorded) == tonumber(score) and tonumber(recorded) <= now_ms
end

local function ff_expire_execution(keys, args)
  check_arity('ff_expire_execution', keys, 14, args, 1)
  local core_key, attempt_key, stream_key, lease_key, history_key, lease_expiry_key, worker_leases_key, active_key,
    terminal_key, timeout_key, deadline_key, suspended_key, suspension_timeout_key, suspension_key = unpack(keys)
  local execution_id, score = args[1], args[3]
  local reason = text_or_empty(args[2]) ~= '' and args[2] or 'attempt_timeout'

  local now_ms = server_now()
  local now = format_integer(now_ms)
  local due_key = reason == 'execution_deadline' and deadline_key or timeout_key
  if score and not is_due(due_key, execution_id, score, now_ms) then
    return ok('not_due')
  end
  local core = fetch_fields(core_key, 'lifecycle_phase', 'eligibility_state', 'lane_id', 'flow_id', 'attempt_state',
    'current_attempt_index', 'current_lease_id', 'current_lease_epoch', 'current_worker_instance_id')
  if not core or core.lifecycle_phase == 'terminal' then
    remove_from_zset(timeout_key, execution_id)
    remove_from_zset(deadline_key, execution_id)
    return ok(core and 'already_terminal' or 'not_found_cleaned')
  end

  local phase = core.lifecycle_phase
  if phase == 'active' then
    end_attempt(attempt_key, stream_key, now, 'ended_failure', 'expired', 'failure_reason', reason)
    server.call('DEL', lease_key)
    remove_from_zset(lease_expiry_key, execution_id)
    remove_from_zset(active_key, execution_id)
    if not is_placeholder(worker_leases_key) then
      server.call('SREM', worker_leases_key, execution_id)
    end
    server.call('SREM', worker_leases_key_of(lease_expiry_key, core), execution_id)
    continue_history(history_key, 'released', now, 'lease_id', core.current_lease_id, 'lease_epoch',
      core.current_lease_epoch, 'attempt_index', core.current_attempt_index, 'reason', 'expired:' .. reason)
  elseif phase == 'suspended' then
    end_attempt(attempt_key, stream_key, now, 'ended_failure', 'expired', 'failure_reason', reason)
    remove_from_zset(suspended_key, execution_id)
    remove_from_zset(suspension_timeout_key, execution_id)
    if not is_placeholder(suspension_key) and server.call('EXISTS', suspension_key) == 1 then
      server.call('HSET', suspension_key, 'closed_at', now, 'closed_reason', 'expired')
    end
  else
    leave_lane('ff:idx:' .. hash_tag(core_key) .. ':lane:' .. core.lane_id .. ':', core.eligibility_state, execution_id)
  end
  local attempt_state = core.current_attempt_index ~= '' and 'attempt_terminal' or core.attempt_state
  end_execution(core_key, 'expired', attempt_state, now, 'failure_reason', reason)
  remove_from_zset(timeout_key, execution_id)
  remove_from_zset(deadline_key, execution_id)
  add_to_zset(terminal_key, now, execution_id)
  count_ended_member(core_key, core.flow_id, 'members_expired')
  publish_completion(execution_id, core.flow_id, 'expired')
  return ok('expired', phase)
end

server.register_function{ function_name = 'ff_expire_execution', callback = ff_expire_execution }
