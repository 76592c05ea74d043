-- ff_resolve_dependency: applies the outcome of an upstream to one edge of a child, and releases or skips the child.
-- Idempotent. 14-KEYS edition.
--
-- KEYS      1 core, 2 deps:meta, 3 deps:unresolved, 4 dep, 5 eligible, 6 terminal, 7 blocked:dependencies,
--           8 attempt, 9 stream meta, 10 payload (all of the child), 11 the upstream's result, 12 edgegroup,
--           13 incoming edges of the child, 14 pending_cancel_groups; all under the flow's tag
-- ARGV      1 edge_id, 2 upstream_outcome (success, skipped, or any other outcome), 3 now_ms (used), 4 flow_id,
--           5 the child's execution id, 6 (optional) the upstream's completed_at as the caller read it
-- Reply     OK, satisfied, "data_injected" | ""
--           OK, impossible, "child_skipped" | ""
--           OK, already_resolved
--           OK, pending, ""         the edge is counted, and its group is still undecided
--           OK, already_fired, ""   the edge is counted, and its group was decided earlier
-- Refusals  invalid_dependency; invalid_input, now_ms; upstream_changed: the upstream's record has another
--           completed_at than ARGV 6, so it was replayed since the caller read it;
--           invariant_violation, <edges resolved>, <edges applied>. The last one comes AFTER the edge was resolved
--           and counted: a repeated call replies already_resolved
-- Publishes for a flow member that it skips: outcome skipped on ff:dag:completions.
-- Cost      O(log n) in the size of the lane's zsets, at most 18 commands. Passing data copies the upstream's result:
--           O(its size). A decision with cancel_remaining adds 3 commands and 2 for each incoming edge of the child.
--
-- A decision with cancel_remaining looks up the unfinished upstreams through KEYS 13. KEYS cannot list their edges
-- and records, so those names are derived from KEYS 13 and carry its hash tag.

local COUNTER_BY_OUTCOME = { success = 'succeeded', skipped = 'skipped' }

-- Resolves an edge of a child that needs all of its edges. A group, if there is one, mirrors the counts.
local function resolve_all_of(keys, args, data_passing_ref, upstream, group)
  local state, detail, is_complete = resolve_required(keys, args, data_passing_ref, upstream)
  if group and state == 'satisfied' then
    server.call('HSET', keys[12], 'succeeded', format_integer(group.succeeded + 1), 'group_state',
      is_complete and 'satisfied' or group.group_state)
  elseif group then
    server.call('HSET', keys[12], 'failed', format_integer(group.failed + 1), 'group_state', 'impossible')
  end
  return ok(state, detail)
end

-- Returns the child's upstreams that are not terminal, without duplicates.
local function unfinished_upstreams(incoming_key, child_id)
  if is_placeholder(incoming_key) then
    return {}
  end
  local flow_prefix = string.sub(incoming_key, 1, -#('in:' .. child_id) - 1)
  local exec_prefix = 'ff:exec:' .. hash_tag(incoming_key) .. ':'
  local upstreams, seen = {}, {}
  for _, edge_id in ipairs(server.call('SMEMBERS', incoming_key)) do
    local upstream = text_or_empty(server.call('HGET', flow_prefix .. 'edge:' .. edge_id, 'upstream_execution_id'))
    if upstream ~= '' and not seen[upstream] then
      seen[upstream] = true
      local phase = text_or_empty(server.call('HGET', exec_prefix .. upstream .. ':core', 'lifecycle_phase'))
      -- An upstream without a record cannot be cancelled.
      if phase ~= '' and phase ~= 'terminal' then
        upstreams[#upstreams + 1] = upstream
      end
    end
  end
  return upstreams
end

local function record_group_decision(keys, args, group, decision)
  local now, flow_id, child_id = args[3], args[4], args[5]
  local fields = { 'group_state', decision }
  local function add(name, value)
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
  if decision == 'satisfied' then
    add('satisfied_at', now)
  end
  if group.on_satisfied == 'cancel_remaining' then
    add('cancel_siblings_pending_flag', 'true')
    add('cancel_siblings_reason', 'sibling_quorum_' .. decision)
    add('cancel_siblings_pending_members', table.concat(unfinished_upstreams(keys[13], child_id), '|'))
    if not is_placeholder(keys[14]) then
      server.call('SADD', keys[14], flow_id .. '|' .. child_id)
    end
  end
  server.call('HSET', keys[12], unpack(fields))
end

-- Resolves an edge of a child whose group needs `quorum` successes. deps:meta does not change.
local function resolve_by_quorum(keys, args, data_passing_ref, upstream, group, quorum)
  local outcome, now = args[2], args[3]
  local has_succeeded = outcome == 'success'
  local counter = COUNTER_BY_OUTCOME[outcome] or 'failed'
  record_resolution(keys, args, has_succeeded and 'satisfied' or 'impossible')
  group[counter] = group[counter] + 1
  server.call('HSET', keys[12], counter, format_integer(group[counter]))
  local resolved = group.succeeded + group.failed + group.skipped
  if resolved > group.n then
    return refuse('invariant_violation', format_integer(resolved), format_integer(group.n))
  end
  if group.group_state == 'satisfied' or group.group_state == 'impossible' then
    return ok('already_fired', '')
  end
  local decision = evaluate_group(group, quorum)
  if decision == 'pending' then
    return ok('pending', '')
  end

  record_group_decision(keys, args, group, decision)
  local child = fetch_open_child(keys[1])
  if decision == 'impossible' then
    local root = child and fetch_skip_root(keys[1], upstream, outcome)
    return ok('impossible', skip_child(keys, child, now, root))
  end
  local injected = has_succeeded and copy_upstream_result(keys, data_passing_ref, child) or ''
  unblock_child(keys, child, now)
  return ok('satisfied', injected)
end

local function ff_resolve_dependency(keys, args)
  check_arity('ff_resolve_dependency', keys, 14, args, 5)
  local data_passing_ref, upstream_or_reply = fetch_unresolved(keys, args)
  if not data_passing_ref then
    return upstream_or_reply
  end
  local group = fetch_group(keys[12])
  local quorum = quorum_of(group)
  if quorum then
    return resolve_by_quorum(keys, args, data_passing_ref, upstream_or_reply, group, quorum)
  end
  return resolve_all_of(keys, args, data_passing_ref, upstream_or_reply, group)
end

server.register_function{ function_name = 'ff_resolve_dependency', callback = ff_resolve_dependency }
