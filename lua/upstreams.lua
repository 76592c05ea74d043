-- Applies the outcome of an upstream to its child. Both editions of ff_resolve_dependency share their first 11 KEYS,
-- and these functions take `keys` with those positions: 1 core, 2 deps:meta, 3 deps:unresolved, 4 dep, 5 eligible,
-- 6 terminal, 7 blocked:dependencies, 8 attempt, 9 stream meta, 10 payload, 11 the upstream's result. `args` starts
-- with edge_id, upstream_outcome, now_ms; its 6th element, if given, is the upstream's completed_at.

-- Returns whether the upstream of an edge has ended otherwise, or not at all any more, since the caller read its
-- `completed_at`. An empty `completed_at` checks nothing, and so does an upstream without a record in this slot.
local function has_upstream_changed(core_key, upstream, completed_at)
  if not upstream or not completed_at or completed_at == '' then
    return false
  end
  local upstream_key = 'ff:exec:' .. hash_tag(core_key) .. ':' .. upstream .. ':core'
  local values = server.call('HMGET', upstream_key, 'lifecycle_phase', 'last_transition_at')
  -- The end is the last transition of a record that has ended. Both fields are among its first, completed_at is the last.
  if not values[1] or values[1] == 'terminal' and values[2] == completed_at then
    return false
  end
  return text_or_empty(server.call('HGET', upstream_key, 'completed_at')) ~= completed_at
end

-- Returns the data_passing_ref of an unresolved edge, '' if it passes no data, and its upstream's id, '' if the edge names
-- none. Returns nil and the reply if there is nothing to resolve.
local function fetch_unresolved(keys, args)
  local values = server.call('HMGET', keys[4], 'state', 'data_passing_ref', 'upstream_execution_id')
  local state, data_passing_ref = values[1], values[2]
  if not (state or data_passing_ref or values[3]) then
    return nil, refuse('invalid_dependency')
  end
  if state == 'satisfied' or state == 'impossible' then
    return nil, ok('already_resolved')
  end
  if not parse_milliseconds(args[3]) then
    return nil, refuse('invalid_input', 'now_ms')
  end
  if has_upstream_changed(keys[1], values[3], args[6]) then
    return nil, refuse('upstream_changed')
  end
  return text_or_empty(data_passing_ref), text_or_empty(values[3])
end

-- Longer values would turn the record from a list into a table, which takes several times the memory.
local MAX_SKIP_REASON_BYTES = 64

-- Shortens a text to MAX_SKIP_REASON_BYTES, and to whole UTF-8 characters.
local function shortened_reason(text)
  if #text <= MAX_SKIP_REASON_BYTES then
    return text
  end
  local last = MAX_SKIP_REASON_BYTES
  while last > 0 and string.find(text, '^[\128-\191]', last + 1) do
    last = last - 1
  end
  return string.sub(text, 1, last)
end

-- Returns the fields skip_root and skip_reason of a child that `upstream` skips, as names and values: the execution whose
-- end started the cascade, and `<its outcome>: <why>`. Returns none if the upstream was itself skipped by a library that
-- does not record the root. `outcome` is what the caller says; the upstream's record, if it has ended, decides.
local function fetch_skip_root(core_key, upstream, outcome)
  if upstream == '' then
    return {}
  end
  local upstream_key = 'ff:exec:' .. hash_tag(core_key) .. ':' .. upstream .. ':core'
  local recorded = text_or_empty(server.call('HGET', upstream_key, 'terminal_outcome'))
  if recorded ~= '' and recorded ~= 'none' then
    outcome = recorded
  end
  if outcome == 'skipped' then
    local root = fetch_fields(upstream_key, 'skip_root', 'skip_reason')
    return root and { 'skip_root', root.skip_root, 'skip_reason', root.skip_reason } or {}
  end
  local field = outcome == 'cancelled' and 'cancellation_reason' or 'failure_reason'
  local why = text_or_empty(server.call('HGET', upstream_key, field))
  return { 'skip_root', upstream, 'skip_reason', shortened_reason(why == '' and outcome or outcome .. ': ' .. why) }
end

-- Returns the child, or nil if it is terminal or its record is gone. A record without its id is the remainder of a
-- trimmed one.
local function fetch_open_child(core_key)
  local values = server.call('HMGET', core_key, 'execution_id', 'terminal_outcome', 'lifecycle_phase',
    'ownership_state', 'eligibility_state', 'attempt_state', 'created_at', 'priority', 'blocking_detail')
  local id, outcome = values[1], values[2]
  if not id or id == '' or (outcome and outcome ~= '' and outcome ~= 'none') then
    return nil
  end
  return {
    execution_id = id,
    lifecycle_phase = values[3],
    ownership_state = values[4],
    eligibility_state = values[5],
    attempt_state = text_or_empty(values[6]),
    created_at = values[7],
    priority = values[8],
    -- Read before anything is written: a call that fails must leave no write behind.
    delay_until = fetch_pending_delay(core_key, values[9]),
  }
end

local function record_resolution(keys, args, state)
  server.call('SREM', keys[3], args[1])
  server.call('HSET', keys[4], 'state', state, 'last_resolved_at', args[3])
end

-- Copies the upstream's result to the payload of an open child, if the edge passes data and the result exists.
local function copy_upstream_result(keys, data_passing_ref, child)
  if child and data_passing_ref ~= '' and not is_placeholder(keys[11])
    and server.call('COPY', keys[11], keys[10], 'REPLACE') == 1 then
    return 'data_injected'
  end
  return ''
end

-- Schedules an open child if it is blocked by its dependencies.
local function unblock_child(keys, child, now)
  if child and child.lifecycle_phase == 'runnable' and child.ownership_state == 'unowned'
    and child.eligibility_state == 'blocked_by_dependencies' then
    unblock(keys[1], child, keys[7], keys[5], now)
  end
end

-- Removes the lease of a child that is skipped while it runs: its worker can neither renew it nor report with it, and no
-- other worker may reclaim the child. KEYS has no position for these keys: they carry the hash tag of the child.
local function revoke_for_skip(keys, child, now)
  local core_key, index_prefix = keys[1], 'ff:idx:' .. hash_tag(keys[1]) .. ':'
  local core = fetch_fields(core_key, 'current_lease_id', 'current_lease_epoch', 'current_attempt_index',
    'current_worker_instance_id')
  local execution_prefix = string.sub(core_key, 1, -#'core' - 1)
  release_lease(child.execution_id, core, now, 'dependency_impossible', {
    lease = execution_prefix .. 'lease:current', history = execution_prefix .. 'lease:history',
    lease_expiry = index_prefix .. 'lease_expiry',
    worker_leases = index_prefix .. 'worker:' .. core.current_worker_instance_id .. ':leases',
    active = sibling_key(keys[5], 'active'), attempt_timeout = index_prefix .. 'attempt_timeout',
  })
  clear_ownership(core_key)
end

-- Removes a child that is skipped from the indexes of its lane and partition.
local function leave_indexes(keys, child)
  local index_prefix = 'ff:idx:' .. hash_tag(keys[1]) .. ':'
  if child.lifecycle_phase == 'suspended' then
    server.call('ZREM', sibling_key(keys[5], 'suspended'), child.execution_id)
    server.call('ZREM', index_prefix .. 'suspension_timeout', child.execution_id)
  elseif child.lifecycle_phase ~= 'active' then
    leave_lane(sibling_key(keys[5], ''), child.eligibility_state, child.execution_id)
  end
  server.call('ZREM', index_prefix .. 'execution_deadline', child.execution_id)
end

-- Skips an open child that can no longer run, whatever it is doing, and publishes it. `root` is from fetch_skip_root.
local function skip_child(keys, child, now, root)
  if not child then
    return ''
  end
  local attempt_state = 'none'
  if has_open_attempt(child) then
    attempt_state = 'attempt_terminal'
    end_attempt(keys[8], keys[9], now, 'ended_cancelled', 'dependency_impossible', 'failure_reason',
      'dependency_impossible')
  end
  if child.lifecycle_phase == 'active' then
    revoke_for_skip(keys, child, now)
  end
  transition(keys[1], terminal_state('skipped', attempt_state), now, 'completed_at', now, unpack(root))
  leave_indexes(keys, child)
  server.call('ZADD', keys[6], now, child.execution_id)
  local flow_id = text_or_empty(server.call('HGET', keys[1], 'flow_id'))
  count_ended_member(keys[1], flow_id, 'members_skipped')
  publish_completion(child.execution_id, flow_id, 'skipped')
  return 'child_skipped'
end

-- Resolves an edge of a child that needs all of its edges. Returns the reply's state and detail, and whether every
-- edge is now satisfied.
local function resolve_required(keys, args, data_passing_ref, upstream)
  local meta_key, outcome, now = keys[2], args[2], args[3]
  local meta = server.call('HMGET', meta_key, 'unsatisfied_required_count', 'impossible_required_count')
  -- Negative if the count was lost. That is not 0, so the edge is not mistaken for the last one.
  local unsatisfied, impossible = number_or_zero(meta[1]) - 1, number_or_zero(meta[2])
  -- Most edges are not the last one and pass no data: they need no read of the child. The read comes before any write,
  -- since a read that raises an error must leave no write behind.
  local needs_child = outcome ~= 'success' or unsatisfied == 0 or data_passing_ref ~= ''
  local child = needs_child and fetch_open_child(keys[1]) or nil
  if outcome == 'success' then
    record_resolution(keys, args, 'satisfied')
    server.call('HSET', meta_key, 'unsatisfied_required_count', format_integer(unsatisfied),
      'last_dependency_update_at', now)
    local injected = copy_upstream_result(keys, data_passing_ref, child)
    if unsatisfied == 0 then
      unblock_child(keys, child, now)
    end
    return 'satisfied', injected, unsatisfied == 0 and impossible == 0
  end
  local root = child and fetch_skip_root(keys[1], upstream, outcome)
  record_resolution(keys, args, 'impossible')
  server.call('HSET', meta_key, 'unsatisfied_required_count', format_integer(unsatisfied), 'impossible_required_count',
    format_integer(impossible + 1), 'last_dependency_update_at', now)
  return 'impossible', skip_child(keys, child, now, root), false
end
