-- ff_apply_dependency_to_child: makes a staged edge count for its child, which then waits. Safe to repeat.
--
-- KEYS   1 core, 2 deps:meta, 3 deps:unresolved, 4 dep, 5 eligible, 6 blocked:dependencies, 7 deps:all_edges
--        (all the child's); the edition of 14 KEYS takes an 8th, the edgegroup
-- ARGV   1 flow_id, 2 edge_id, 3 upstream, 4 graph_revision, 5 dependency_kind, 6 data_passing_ref,
--        7 now_ms (used)
-- Reply  OK, <unsatisfied count>
--        OK, already_applied
--        refused: execution_not_found; execution_already_in_flow, <other>; invalid_input, now_ms
--
-- An edge that is applied when the child's any_of or quorum group is satisfied does not hold up the child again.
-- A child whose delay has not elapsed leaves the delayed zset too; its name is built from KEYS 5.

local function ff_apply_dependency_to_child(keys, args)
  check_arity('ff_apply_dependency_to_child', keys, KEYS_TO_APPLY, args, 7)
  local core_key, meta_key, unresolved_key, dep_key, eligible_key, blocked_key, all_edges_key = unpack(keys)
  local flow_id, edge_id, upstream, graph_revision, kind, data_passing_ref, now = unpack(args)

  local core = fetch(core_key, 'execution_id', 'flow_id', 'lifecycle_phase', 'eligibility_state',
    'terminal_outcome', 'attempt_state', 'created_at')
  if not core then
    return refuse('execution_not_found')
  end
  if core.flow_id ~= '' and core.flow_id ~= flow_id then
    return refuse('execution_already_in_flow', core.flow_id)
  end
  if server.call('EXISTS', dep_key) == 1 then
    return ok('already_applied')
  end
  if not milliseconds(now) then
    return refuse('invalid_input', 'now_ms')
  end

  server.call('HSET', dep_key, 'edge_id', edge_id, 'flow_id', flow_id, 'upstream_execution_id', upstream,
    'downstream_execution_id', core.execution_id, 'dependency_kind', kind, 'state', 'unsatisfied',
    'data_passing_ref', data_passing_ref, 'last_resolved_at', '')
  server.call('SADD', unresolved_key, edge_id)
  server.call('SADD', all_edges_key, edge_id)
  local unsatisfied = server.call('HINCRBY', meta_key, 'unsatisfied_required_count', 1)
  server.call('HSETNX', meta_key, 'impossible_required_count', '0')
  server.call('HSET', meta_key, 'flow_id', flow_id, 'last_flow_graph_revision', graph_revision,
    'last_dependency_update_at', now)
  local holds = join_group(keys)
  if holds and core.lifecycle_phase == 'runnable' and has_no_outcome(core) then
    transition(core_key, blocked_state(core.attempt_state), now)
    server.call('ZREM', eligible_key, core.execution_id)
    if core.eligibility_state == 'not_eligible_until_time' then
      server.call('ZREM', sibling(eligible_key, 'delayed'), core.execution_id)
    end
    server.call('ZADD', blocked_key, whole(count(core.created_at)), core.execution_id)
  end
  return ok(whole(unsatisfied))
end

server.register_function{ function_name = 'ff_apply_dependency_to_child', callback = ff_apply_dependency_to_child }
