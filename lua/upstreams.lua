-- How the end of an upstream reaches its child. Both editions of ff_resolve_dependency share their first 11
-- KEYS, and the functions here take them as they come: 1 core, 2 deps:meta, 3 deps:unresolved, 4 dep,
-- 5 eligible, 6 terminal, 7 blocked:dependencies, 8 attempt, 9 stream meta, 10 payload, 11 the upstream's result.
-- ARGV begin with edge_id, upstream_outcome, now_ms.

-- The edge's record where it is still to be resolved; else nil, and what the call replies.
local function fetch_unresolved(keys, args)
  local dep = fetch(keys[4], 'state', 'data_passing_ref')
  if not dep then
    return nil, refuse('invalid_dependency')
  end
  if dep.state == 'satisfied' or dep.state == 'impossible' then
    return nil, ok('already_resolved')
  end
  if not milliseconds(args[3]) then
    return nil, refuse('invalid_input', 'now_ms')
  end
  return dep
end

-- The child where it can still change. Nil where it has ended, and where its record is gone: one without its
-- id is what trimming left, and there is nobody to release or to skip.
local function fetch_open_child(core_key)
  local child = fetch(core_key, 'execution_id', 'lifecycle_phase', 'ownership_state', 'eligibility_state',
    'terminal_outcome', 'attempt_state', 'created_at', 'priority')
  if child and child.execution_id ~= '' and has_no_outcome(child) then
    return child
  end
  return nil
end

local function record_resolution(keys, args, state)
  server.call('SREM', keys[3], args[1])
  server.call('HSET', keys[4], 'state', state, 'last_resolved_at', args[3])
end

-- Gives an open child the upstream's result, where the edge passes data and there is any.
local function pass_data(keys, dep, child)
  if child and dep.data_passing_ref ~= '' and server.call('COPY', keys[11], keys[10], 'REPLACE') == 1 then
    return 'data_injected'
  end
  return ''
end

-- Lets an open child run that waits for its dependencies.
local function release_child(keys, child, now)
  if child and child.lifecycle_phase == 'runnable' and child.ownership_state == 'unowned'
    and child.eligibility_state == 'blocked_by_dependencies' then
    release_blocked(keys[1], child, keys[7], keys[5], now)
  end
end

-- Ends an open child that can no longer run. One that was eligible nevertheless leaves that zset as well.
local function skip_child(keys, child, now)
  if not child then
    return ''
  end
  local attempt_state = 'none'
  if has_open_attempt(child) then
    attempt_state = 'attempt_terminal'
    end_attempt(keys[8], keys[9], now, 'ended_cancelled', 'dependency_impossible', 'failure_reason',
      'dependency_impossible')
  end
  transition(keys[1], terminal_state('skipped', attempt_state), now, 'completed_at', now)
  server.call('ZREM', keys[7], child.execution_id)
  if child.eligibility_state == 'eligible_now' then
    server.call('ZREM', keys[5], child.execution_id)
  end
  server.call('ZADD', keys[6], now, child.execution_id)
  return 'child_skipped'
end

-- Resolves an edge of a child that needs all of its edges. What became of the edge and of the child, as the
-- reply tells it, and whether every edge is satisfied now.
local function resolve_required(keys, args, dep)
  local meta_key, outcome, now = keys[2], args[2], args[3]
  local child = fetch_open_child(keys[1])
  local meta = server.call('HMGET', meta_key, 'unsatisfied_required_count', 'impossible_required_count')
  -- Below 0 where the count was lost: that is not 0, and the edge does not pass for the last one.
  local unsatisfied, impossible = count(meta[1]) - 1, count(meta[2])
  if outcome == 'success' then
    record_resolution(keys, args, 'satisfied')
    server.call('HSET', meta_key, 'unsatisfied_required_count', whole(unsatisfied), 'last_dependency_update_at', now)
    local injected = pass_data(keys, dep, child)
    if unsatisfied == 0 then
      release_child(keys, child, now)
    end
    return 'satisfied', injected, unsatisfied == 0 and impossible == 0
  end
  record_resolution(keys, args, 'impossible')
  server.call('HSET', meta_key, 'unsatisfied_required_count', whole(unsatisfied), 'impossible_required_count',
    whole(impossible + 1), 'last_dependency_update_at', now)
  return 'impossible', skip_child(keys, child, now), false
end
