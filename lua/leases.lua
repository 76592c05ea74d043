-- What the end of an ownership has in common: who may end it, and what it leaves.

-- The record's fields that `refuse_unless_owned` and `release_lease` need.
local function fetch_owned(core_key)
  return fetch(core_key, 'lifecycle_phase', 'ownership_state', 'terminal_outcome', 'current_lease_id',
    'current_lease_epoch', 'current_attempt_id', 'lease_expires_at', 'flow_id', 'retry_count')
end

-- A refusal, unless the lease is the execution's present one and has not run out.
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
  if core.ownership_state == 'lease_expired_reclaimable' or count(core.lease_expires_at) <= now_ms then
    return refuse('lease_expired')
  end
  if core.current_lease_id ~= lease_id or core.current_lease_epoch ~= lease_epoch
    or core.current_attempt_id ~= attempt_id then
    return refuse('stale_lease')
  end
  return nil
end

-- The fields of a record that nobody owns. The epoch stays: the next lease's must be higher.
local function no_lease_fields()
  return 'current_lease_id', '', 'current_worker_id', '', 'current_worker_instance_id', '',
    'lease_acquired_at', '', 'lease_expires_at', '', 'lease_last_renewed_at', '', 'lease_renewal_deadline', ''
end

-- Takes a lease out of every place but the record itself, which `no_lease_fields` clears.
local function release_lease(execution_id, lease_id, lease_epoch, now, reason, places)
  server.call('DEL', places.lease)
  server.call('XADD', places.history, '*', 'event', 'released', 'reason', reason, 'lease_id', lease_id,
    'lease_epoch', lease_epoch, 'at', now)
  server.call('ZREM', places.lease_expiry, execution_id)
  server.call('SREM', places.worker_leases, execution_id)
  server.call('ZREM', places.active, execution_id)
  server.call('ZREM', places.attempt_timeout, execution_id)
end

-- Tells that a flow's member has ended; an execution outside any flow has nobody to tell.
local function publish_completion(execution_id, flow_id, outcome)
  if flow_id == '' then
    return
  end
  local event = string.format('{"execution_id":%s,"flow_id":%s,"outcome":%s}', cjson.encode(execution_id),
    cjson.encode(flow_id), cjson.encode(outcome))
  server.call('PUBLISH', 'ff:dag:completions', event)
end
