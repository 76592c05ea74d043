-- ff_promote_blocked_to_eligible: lets an execution run that waits although nothing is left to wait for.
--
-- KEYS   1 core, 2 blocked:dependencies, 3 eligible, 4 deps:meta, 5 deps:unresolved
-- ARGV   1 execution_id, 2 now_ms (used)
-- Reply  OK
--        refused: execution_not_found; not_runnable; not_blocked_by_deps; terminal;
--        deps_not_satisfied, <unsatisfied count>, <unresolved edges>; invalid_input, now_ms
--
-- An impossible edge is no satisfied one: such an execution is refused as well. Where it has an any_of or quorum
-- group it waits until that is satisfied, whatever the counts say.

local function ff_promote_blocked_to_eligible(keys, args)
  check_arity('ff_promote_blocked_to_eligible', keys, 5, args, 2)
  local core_key, blocked_key, eligible_key, meta_key, unresolved_key = unpack(keys)
  local execution_id, now = unpack(args)

  local core = fetch(core_key, 'lifecycle_phase', 'eligibility_state', 'terminal_outcome', 'attempt_state',
    'created_at', 'priority', 'flow_id')
  if not core then
    return refuse('execution_not_found')
  end
  if core.lifecycle_phase ~= 'runnable' then
    return refuse('not_runnable')
  end
  if core.eligibility_state ~= 'blocked_by_dependencies' then
    return refuse('not_blocked_by_deps')
  end
  if not has_no_outcome(core) then
    return refuse('terminal')
  end
  local meta = server.call('HMGET', meta_key, 'unsatisfied_required_count', 'impossible_required_count')
  local unresolved = server.call('SCARD', unresolved_key)
  local group_state = group_state_of(core_key, core.flow_id, execution_id)
  local is_satisfied = group_state == 'satisfied'
  if not group_state then
    is_satisfied = count(meta[1]) <= 0 and count(meta[2]) <= 0 and unresolved == 0
  end
  if not is_satisfied then
    return refuse('deps_not_satisfied', whole(count(meta[1])), whole(unresolved))
  end
  if not milliseconds(now) then
    return refuse('invalid_input', 'now_ms')
  end

  core.execution_id = execution_id
  release_blocked(core_key, core, blocked_key, eligible_key, now)
  return ok()
end

server.register_function{
  function_name = 'ff_promote_blocked_to_eligible',
  callback = ff_promote_blocked_to_eligible,
}
