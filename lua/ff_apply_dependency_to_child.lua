-- ff_apply_dependency_to_child: adds a staged edge to the child's dependencies and blocks the child. Idempotent.
--
-- KEYS      1 core, 2 deps:meta, 3 deps:unresolved, 4 dep, 5 eligible, 6 blocked:dependencies, 7 deps:all_edges
--           (all of the child); the 14-KEYS edition adds 8 edgegroup
-- ARGV      1 flow_id, 2 edge_id, 3 upstream (execution id), 4 graph_revision, 5 dependency_kind,
--           6 data_passing_ref (may be empty), 7 now_ms (used)
-- Reply     OK, <unsatisfied count>
--           OK, already_applied
-- Refusals  execution_not_found; execution_already_in_flow, <other flow>; invalid_input, now_ms
-- Publishes nothing.
-- Cost      O(log n) in the size of the lane's zsets, at most 12 commands (14 in the 14-KEYS edition).
--
-- Only a runnable child without an outcome is blocked. If its any_of or quorum group is already satisfied, the new
-- edge is recorded but does not block it. A delayed child also leaves the delayed zset, whose name is derived from
-- KEYS 5.

local function ff_apply_dependency_to_child(keys, args)
  check_arity('ff_apply_dependency_to_child', keys, APPLY_KEY_COUNT, args, 7)
  local core_key, meta_key, unresolved_key, dep_key, eligible_key, blocked_key, all_edges_key = unpack(keys)
  local flow_id, edge_id, upstream, graph_revision, kind, data_passing_ref, now = unpack(args)

  local core = fetch_fields(core_key, 'execution_id', 'flow_id', 'lifecycle_phase', 'eligibility_state',
    'terminal_outcome', 'attempt_state', 'created_at', 'blocking_detail')
  if not core then
    return refuse('execution_not_found')
  end
  if core.flow_id ~= '' and core.flow_id ~= flow_id then
    return refuse('execution_already_in_flow', core.flow_id)
  end
  if server.call('EXISTS', dep_key) == 1 then
    return ok('already_applied')
  end
  if not parse_milliseconds(now) then
    return refuse('invalid_input', 'now_ms')
  end

  server.call('HSET', dep_key, 'edge_id', edge_id, 'flow_id', flow_id, 'upstream_execution_id', upstream,
    'downstream_execution_id', core.execution_id, 'dependency_kind', kind, 'state', 'unsatisfied',
    -- Last, and only if it is set: an empty field would cost each edge 64 bytes.
    unpack(data_passing_ref ~= '' and { 'data_passing_ref', data_passing_ref } or {}))
  server.call('SADD', unresolved_key, edge_id)
  server.call('SADD', all_edges_key, edge_id)
  local unsatisfied = server.call('HINCRBY', meta_key, 'unsatisfied_required_count', 1)
  server.call('HSETNX', meta_key, 'impossible_required_count', '0')
  server.call('HSET', meta_key, 'flow_id', flow_id, 'last_flow_graph_revision', graph_revision,
    'last_dependency_update_at', now)
  local blocks_child = count_applied_edge(keys)
  if blocks_child and core.lifecycle_phase == 'runnable' and has_no_outcome(core) then
    -- Only an execution that is delayed, or was when it was blocked, has a delay_until.
    local may_be_delayed = core.eligibility_state == 'not_eligible_until_time' or core.blocking_detail ~= ''
    local delay_until = may_be_delayed and text_or_empty(server.call('HGET', core_key, 'delay_until')) or ''
    transition(core_key, blocked_state(core.attempt_state, delay_until), now)
    server.call('ZREM', eligible_key, core.execution_id)
    if core.eligibility_state == 'not_eligible_until_time' then
      server.call('ZREM', sibling_key(eligible_key, 'delayed'), core.execution_id)
    end
    server.call('ZADD', blocked_key, format_integer(number_or_zero(core.created_at)), core.execution_id)
  end
  return ok(format_integer(unsatisfied))
end

server.register_function{ function_name = 'ff_apply_dependency_to_child', callback = ff_apply_dependency_to_child }
