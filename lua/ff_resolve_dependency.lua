-- ff_resolve_dependency: tells a child how one of its upstreams ended. Safe to repeat. Edition of 11 KEYS.
--
-- KEYS   1 core, 2 deps:meta, 3 deps:unresolved, 4 dep, 5 eligible, 6 terminal, 7 blocked:dependencies,
--        8 attempt, 9 stream meta, 10 payload (all the child's), 11 the upstream's result, under the child's tag
-- ARGV   1 edge_id, 2 upstream_outcome (success, or anything else), 3 now_ms (used)
-- Reply  OK, satisfied, "data_injected" | ""
--        OK, impossible, "child_skipped" | ""
--        OK, already_resolved
--        refused: invalid_dependency; invalid_input, now_ms
-- Publishes nothing: a skipped child's own children are the caller's to tell (see version.lua).

-- Lets the child run once nothing is left that it waits for.
local function release_if_last(core_key, core, blocked_key, eligible_key, unsatisfied, now)
  if unsatisfied == 0 and core.lifecycle_phase == 'runnable' and core.ownership_state == 'unowned'
    and has_no_outcome(core) and core.eligibility_state == 'blocked_by_dependencies' then
    release_blocked(core_key, core, blocked_key, eligible_key, now)
  end
end

-- Ends a child that can no longer run. A child that was eligible nevertheless leaves that zset as well.
local function skip_child(keys, core, now)
  local core_key, eligible_key, terminal_key, blocked_key = keys[1], keys[5], keys[6], keys[7]
  local attempt_state = 'none'
  if has_open_attempt(core) then
    attempt_state = 'attempt_terminal'
    end_attempt(keys[8], keys[9], now, 'ended_cancelled', 'dependency_impossible', 'failure_reason',
      'dependency_impossible')
  end
  transition(core_key, terminal_state('skipped', attempt_state), now, 'completed_at', now)
  server.call('ZREM', blocked_key, core.execution_id)
  if core.eligibility_state == 'eligible_now' then
    server.call('ZREM', eligible_key, core.execution_id)
  end
  server.call('ZADD', terminal_key, now, core.execution_id)
end

local function ff_resolve_dependency(keys, args)
  check_arity('ff_resolve_dependency', keys, 11, args, 3)
  local core_key, meta_key, unresolved_key, dep_key, eligible_key, _, blocked_key, _, _, payload_key,
    result_key = unpack(keys)
  local edge_id, upstream_outcome, now = unpack(args)

  local dep = fetch(dep_key, 'state', 'data_passing_ref')
  if not dep then
    return refuse('invalid_dependency')
  end
  if dep.state == 'satisfied' or dep.state == 'impossible' then
    return ok('already_resolved')
  end
  if not milliseconds(now) then
    return refuse('invalid_input', 'now_ms')
  end
  local core = fetch(core_key, 'execution_id', 'lifecycle_phase', 'ownership_state', 'eligibility_state',
    'terminal_outcome', 'attempt_state', 'created_at', 'priority')
  local meta = server.call('HMGET', meta_key, 'unsatisfied_required_count', 'impossible_required_count')
  -- Below 0 where the count was lost: that is not 0, and the edge does not pass for the last one.
  local unsatisfied = count(meta[1]) - 1
  -- A record without its id is what trimming left: there is nobody to release or to skip.
  local is_open = core and core.execution_id ~= '' and has_no_outcome(core)

  server.call('SREM', unresolved_key, edge_id)
  if upstream_outcome == 'success' then
    server.call('HSET', dep_key, 'state', 'satisfied', 'last_resolved_at', now)
    server.call('HSET', meta_key, 'unsatisfied_required_count', whole(unsatisfied), 'last_dependency_update_at', now)
    local injected = ''
    if is_open and dep.data_passing_ref ~= '' and server.call('COPY', result_key, payload_key, 'REPLACE') == 1 then
      injected = 'data_injected'
    end
    if is_open then
      release_if_last(core_key, core, blocked_key, eligible_key, unsatisfied, now)
    end
    return ok('satisfied', injected)
  end

  server.call('HSET', dep_key, 'state', 'impossible', 'last_resolved_at', now)
  server.call('HSET', meta_key, 'unsatisfied_required_count', whole(unsatisfied), 'impossible_required_count',
    whole(count(meta[2]) + 1), 'last_dependency_update_at', now)
  if not is_open then
    return ok('impossible', '')
  end
  skip_child(keys, core, now)
  return ok('impossible', 'child_skipped')
end

server.register_function{ function_name = 'ff_resolve_dependency', callback = ff_resolve_dependency }
