-- Ends a lease: checks its owner, releases it, and publishes the completion.

-- Reads the fields that refuse_unless_owned and the completing functions need.
local function fetch_owned_execution(core_key)
  return fetch_fields(core_key, 'lifecycle_phase', 'ownership_state', 'terminal_outcome', 'current_lease_id',
    'current_lease_epoch', 'current_attempt_id', 'current_attempt_index', 'lease_expires_at', 'flow_id', 'retry_count')
end

-- Returns a refusal unless this is the execution's current lease and it has not expired.
local function refuse_unless_owned(core, lease_id, lease_epoch, attempt_id, now_ms)
  if not core then
    return refuse('execution_not_found')
  end
  if core.lifecycle_phase ~= 'active' then
    return refuse('execution_not_active', core.terminal_outcome, core.current_lease_epoch)
  end
  if core.ownership_state == 'lease_revoked' then
    return refuse('lease_revoked')
  end
  if core.ownership_state == 'lease_expired_reclaimable' or number_or_zero(core.lease_expires_at) <= now_ms then
    return refuse('lease_expired')
  end
  if core.current_lease_id ~= lease_id or core.current_lease_epoch ~= lease_epoch
    or core.current_attempt_id ~= attempt_id then
    return refuse('stale_lease')
  end
  return nil
end

-- Appends an event to the lease history, which keeps about the last 1,000 (contract, section 10).
local function add_history_event(history_key, event, now, ...)
  if not is_placeholder(history_key) then
    server.call('XADD', history_key, 'MAXLEN', '~', '1000', '*', 'event', event, 'ts', now, ...)
  end
end

-- Appends an event of an ordinary life, if there is a history. A history begins when a lease is lost or an execution is
-- replayed: the stream of an execution without trouble would be two thirds of its memory.
local function continue_history(history_key, event, now, ...)
  if not is_placeholder(history_key) and server.call('EXISTS', history_key) == 1 then
    add_history_event(history_key, event, now, ...)
  end
end

-- Removes a lease from every key but the record itself, which clear_ownership clears. `core` needs
-- current_lease_id, current_lease_epoch and current_attempt_index; `lease_keys` names the keys.
local function release_lease(execution_id, core, now, reason, lease_keys)
  if not is_placeholder(lease_keys.lease) then
    server.call('DEL', lease_keys.lease)
  end
  continue_history(lease_keys.history, 'released', now, 'lease_id', core.current_lease_id, 'lease_epoch',
    core.current_lease_epoch, 'attempt_index', core.current_attempt_index, 'reason', reason)
  remove_from_zset(lease_keys.lease_expiry, execution_id)
  if not is_placeholder(lease_keys.worker_leases) then
    server.call('SREM', lease_keys.worker_leases, execution_id)
  end
  remove_from_zset(lease_keys.active, execution_id)
  remove_from_zset(lease_keys.attempt_timeout, execution_id)
end

-- Records when an execution of the lane was last claimed: nothing else tells an idle lane from one that no worker serves.
local function record_claim(core_key, lane, now)
  server.call('ZADD', 'ff:idx:' .. hash_tag(core_key) .. ':lane_claims', now, lane)
end

-- Publishes the completion of a flow member. An execution outside any flow has no dependents: nothing to publish.
local function publish_completion(execution_id, flow_id, outcome)
  if flow_id == '' then
    return
  end
  local event = string.format('{"execution_id":%s,"flow_id":%s,"outcome":%s}', cjson.encode(execution_id),
    cjson.encode(flow_id), cjson.encode(outcome))
  server.call('PUBLISH', 'ff:dag:completions', event)
end
