-- ff_promote_blocked_to_eligible: makes a blocked execution eligible once all of its dependencies are satisfied. The
-- reconciler uses it to repair an execution that missed its release.
--
-- KEYS      1 core, 2 blocked:dependencies, 3 eligible, 4 deps:meta, 5 deps:unresolved
-- ARGV      1 execution_id, 2 now_ms (used)
-- Reply     OK
-- Refusals  execution_not_found; not_runnable; not_blocked_by_deps; terminal;
--           deps_not_satisfied, <unsatisfied count>, <unresolved edges>; invalid_input, now_ms
-- Publishes nothing.
-- Cost      O(log n) in the size of the lane's zsets, at most 7 commands (8 in the 14-KEYS edition).
--
-- An impossible edge does not count as satisfied. For a child with an any_of or quorum group, only the group's state
-- decides. The group's key is derived from KEYS 1. An execution whose delay_until lies ahead becomes delayed instead of
-- eligible: the delayed zset's name is derived from KEYS 3.

local function ff_promote_blocked_to_eligible(keys, args)
  check_arity('ff_promote_blocked_to_eligible', keys, 5, args, 2)
  local core_key, blocked_key, eligible_key, meta_key, unresolved_key = unpack(keys)
  local execution_id, now = unpack(args)

  local core = fetch_fields(core_key, 'lifecycle_phase', 'eligibility_state', 'terminal_outcome', 'attempt_state',
    'created_at', 'priority', 'flow_id', 'blocking_detail')
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
  local group_state = fetch_group_state(core_key, core.flow_id, execution_id)
  local is_satisfied = group_state == 'satisfied'
  if not group_state then
    is_satisfied = number_or_zero(meta[1]) <= 0 and number_or_zero(meta[2]) <= 0 and unresolved == 0
  end
  if not is_satisfied then
    return refuse('deps_not_satisfied', format_integer(number_or_zero(meta[1])), format_integer(unresolved))
  end
  if not parse_milliseconds(now) then
    return refuse('invalid_input', 'now_ms')
  end

  core.execution_id = execution_id
  core.delay_until = fetch_pending_delay(core_key, core.blocking_detail)
  unblock(core_key, core, blocked_key, eligible_key, now)
  return ok()
end

server.register_function{
  function_name = 'ff_promote_blocked_to_eligible',
  callback = ff_promote_blocked_to_eligible,
}
