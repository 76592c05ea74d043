-- Leases that ran out or were taken away. The execution stays active until a worker reclaims it: there is no transition
-- back to eligible.

-- The renewal deadline is two thirds of the lease's time: a worker that misses it has one third left to renew.
local function renewal_deadline(now_ms, ttl_ms)
  return format_integer(now_ms + math.floor(ttl_ms * 2 / 3))
end

-- The key of the output stream's metadata of the current attempt, in the slot of the core.
local function stream_meta_key(core_key, execution_id, attempt_index)
  return 'ff:stream:' .. hash_tag(core_key) .. ':' .. execution_id .. ':' .. attempt_index .. ':meta'
end

-- Reads what the functions on lost leases need. Returns nil without a record.
local function fetch_leased_execution(core_key)
  return fetch_fields(core_key, 'execution_id', 'lifecycle_phase', 'ownership_state', 'terminal_outcome', 'lane_id',
    'attempt_state', 'flow_id', 'current_attempt_index', 'current_attempt_id', 'current_lease_id', 'current_lease_epoch',
    'current_worker_id', 'current_worker_instance_id', 'lease_expires_at', 'lease_revoked_at', 'total_attempt_count',
    'lease_reclaim_count')
end

-- Marks the lease of an execution as expired, once. Phase, eligibility and outcome stay, and so do the lease's fields
-- and its index entries: a worker that reclaims the execution finds it through them.
local function mark_lease_expired(core_key, history_key, core, now)
  server.call('HSET', core_key, 'ownership_state', 'lease_expired_reclaimable', 'blocking_reason', 'waiting_for_worker',
    'blocking_detail', 'lease expired, awaiting reclaim', 'attempt_state', 'attempt_interrupted', 'public_state',
    'active', 'lease_expired_at', now, 'last_mutation_at', now)
  add_history_event(history_key, 'expired', now, 'lease_id', core.current_lease_id, 'lease_epoch',
    core.current_lease_epoch, 'attempt_index', core.current_attempt_index, 'attempt_id', core.current_attempt_id,
    'worker_id', core.current_worker_id, 'worker_instance_id', core.current_worker_instance_id)
  local stream_key = stream_meta_key(core_key, core.execution_id, core.current_attempt_index)
  if server.call('EXISTS', stream_key) == 1
    and text_or_empty(server.call('HGET', stream_key, 'closed_at')) == '' then
    server.call('HSET', stream_key, 'closed_at', now, 'closed_reason', 'lease_expired')
  end
end

-- Returns whether another worker may take an execution over.
local function is_reclaimable(core)
  return core.lifecycle_phase == 'active'
    and (core.ownership_state == 'lease_expired_reclaimable' or core.ownership_state == 'lease_revoked')
end

-- Returns a refusal if none or only some of the three texts that identify an attempt are given.
local function refuse_unless_fenced(lease_id, lease_epoch, attempt_id)
  local given = (lease_id ~= '' and 1 or 0) + (lease_epoch ~= '' and 1 or 0) + (attempt_id ~= '' and 1 or 0)
  if given == 0 then
    return refuse('fence_required')
  end
  return given < 3 and refuse('partial_fence_triple') or nil
end

-- The key of the leases of the worker that the record names, in the partition of lease_expiry.
local function worker_leases_key_of(lease_expiry_key, core)
  return sibling_key(lease_expiry_key, 'worker:' .. core.current_worker_instance_id .. ':leases')
end
