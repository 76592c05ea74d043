-- ff_resolve_dependency: tells a child how one of its upstreams ended. Safe to repeat. Edition of 14 KEYS.
--
-- KEYS   1 core, 2 deps:meta, 3 deps:unresolved, 4 dep, 5 eligible, 6 terminal, 7 blocked:dependencies,
--        8 attempt, 9 stream meta, 10 payload (all the child's), 11 the upstream's result, 12 edgegroup,
--        13 incoming edges of the child, 14 pending_cancel_groups; all under the flow's tag
-- ARGV   1 edge_id, 2 upstream_outcome (success, skipped, or anything else), 3 now_ms (used), 4 flow_id,
--        5 the child's execution id
-- Reply  OK, satisfied, "data_injected" | ""
--        OK, impossible, "child_skipped" | ""
--        OK, already_resolved
--        OK, pending, ""         the edge counts, and its group is not decided
--        OK, already_fired, ""   the edge counts, and its group was decided before
--        refused: invalid_dependency; invalid_input, now_ms;
--        invariant_violation, <edges resolved>, <edges applied>: AFTER the edge was written and counted, and
--        nothing else was; a repeated call sees only already_resolved
-- Publishes a child that it skips, with the outcome skipped, on ff:dag:completions.
--
-- The upstreams that a decided group does not need any more are found over KEYS 13: their number is the graph's,
-- so the names of edges and records are built from it, and carry its hash tag.

local BUCKETS = { success = 'succeeded', skipped = 'skipped' }

-- An edge of a child that needs all of them. The group, where there is one, counts along.
local function resolve_counting_along(keys, args, data_passing_ref, group)
  local state, detail, is_complete = resolve_required(keys, args, data_passing_ref)
  if group and state == 'satisfied' then
    server.call('HSET', keys[12], 'succeeded', whole(group.succeeded + 1), 'group_state',
      is_complete and 'satisfied' or group.group_state)
  elseif group then
    server.call('HSET', keys[12], 'failed', whole(group.failed + 1), 'group_state', 'impossible')
  end
  return ok(state, detail)
end

-- The child's upstreams that have not ended, each once.
local function unfinished_upstreams(incoming_key, child_id)
  local flow_prefix = string.sub(incoming_key, 1, -#('in:' .. child_id) - 1)
  local exec_prefix = 'ff:exec:' .. hash_tag(incoming_key) .. ':'
  local upstreams, seen = {}, {}
  for _, edge_id in ipairs(server.call('SMEMBERS', incoming_key)) do
    local upstream = text(server.call('HGET', flow_prefix .. 'edge:' .. edge_id, 'upstream_execution_id'))
    if upstream ~= '' and not seen[upstream] then
      seen[upstream] = true
      local phase = text(server.call('HGET', exec_prefix .. upstream .. ':core', 'lifecycle_phase'))
      -- Without a record there is nobody to cancel.
      if phase ~= '' and phase ~= 'terminal' then
        upstreams[#upstreams + 1] = upstream
      end
    end
  end
  return upstreams
end

local function record_decision(keys, args, group, verdict)
  local now, flow_id, child_id = args[3], args[4], args[5]
  local fields = { 'group_state', verdict }
  local function add(name, value)
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
  if verdict == 'satisfied' then
    add('satisfied_at', now)
  end
  if group.on_satisfied == 'cancel_remaining' then
    add('cancel_siblings_pending_flag', 'true')
    add('cancel_siblings_reason', 'sibling_quorum_' .. verdict)
    add('cancel_siblings_pending_members', table.concat(unfinished_upstreams(keys[13], child_id), '|'))
    server.call('SADD', keys[14], flow_id .. '|' .. child_id)
  end
  server.call('HSET', keys[12], unpack(fields))
end

-- An edge of a child whose group decides, by as many successes as `quorum`. deps:meta is left alone.
local function resolve_in_group(keys, args, data_passing_ref, group, quorum)
  local outcome, now = args[2], args[3]
  local has_succeeded = outcome == 'success'
  local bucket = BUCKETS[outcome] or 'failed'
  record_resolution(keys, args, has_succeeded and 'satisfied' or 'impossible')
  group[bucket] = group[bucket] + 1
  server.call('HSET', keys[12], bucket, whole(group[bucket]))
  local resolved = group.succeeded + group.failed + group.skipped
  if resolved > group.n then
    return refuse('invariant_violation', whole(resolved), whole(group.n))
  end
  if group.group_state == 'satisfied' or group.group_state == 'impossible' then
    return ok('already_fired', '')
  end
  local verdict = group_verdict(group, quorum)
  if verdict == 'pending' then
    return ok('pending', '')
  end

  record_decision(keys, args, group, verdict)
  local child = fetch_open_child(keys[1])
  if verdict == 'impossible' then
    return ok('impossible', skip_child(keys, child, now))
  end
  local injected = has_succeeded and pass_data(keys, data_passing_ref, child) or ''
  release_child(keys, child, now)
  return ok('satisfied', injected)
end

local function ff_resolve_dependency(keys, args)
  check_arity('ff_resolve_dependency', keys, 14, args, 5)
  local flow_id, child_id = args[4], args[5]
  local data_passing_ref, reply = fetch_unresolved(keys, args)
  if not data_passing_ref then
    return reply
  end
  local group = fetch_group(keys[12])
  local quorum = quorum_of(group)
  if quorum then
    reply = resolve_in_group(keys, args, data_passing_ref, group, quorum)
  else
    reply = resolve_counting_along(keys, args, data_passing_ref, group)
  end
  if reply[4] == 'child_skipped' then
    publish_completion(child_id, flow_id, 'skipped')
  end
  return reply
end

server.register_function{ function_name = 'ff_resolve_dependency', callback = ff_resolve_dependency }
