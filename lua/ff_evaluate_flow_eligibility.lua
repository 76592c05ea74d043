-- ff_evaluate_flow_eligibility: returns whether the dependencies of an execution allow it to run. Read-only.
--
-- KEYS      1 core, 2 deps:meta
-- ARGV      none
-- Reply     OK, not_found | not_runnable | owned | terminal | impossible | blocked_by_dependencies | eligible
-- Refusals  none
-- Publishes nothing.
-- Cost      O(1), 2 commands (3 in the 14-KEYS edition).
--
-- For a child with an any_of or quorum group, the group decides and deps:meta is ignored. The group's key is derived
-- from KEYS 1.

local ELIGIBILITY_BY_GROUP_STATE = {
  satisfied = 'eligible', impossible = 'impossible', pending = 'blocked_by_dependencies',
}

local function flow_eligibility(core, meta, group_state)
  if not core then
    return 'not_found'
  end
  if core.lifecycle_phase ~= 'runnable' then
    return 'not_runnable'
  end
  if core.ownership_state ~= 'unowned' and core.ownership_state ~= '' then
    return 'owned'
  end
  if not has_no_outcome(core) then
    return 'terminal'
  end
  if group_state then
    return ELIGIBILITY_BY_GROUP_STATE[group_state] or 'blocked_by_dependencies'
  end
  if number_or_zero(meta[1]) > 0 then
    return 'impossible'
  end
  return number_or_zero(meta[2]) > 0 and 'blocked_by_dependencies' or 'eligible'
end

local function ff_evaluate_flow_eligibility(keys, args)
  check_arity('ff_evaluate_flow_eligibility', keys, 2, args, 0)
  local core_key, meta_key = unpack(keys)
  local core = fetch_fields(core_key, 'execution_id', 'lifecycle_phase', 'ownership_state', 'terminal_outcome',
    'flow_id')
  local meta = server.call('HMGET', meta_key, 'impossible_required_count', 'unsatisfied_required_count')
  local group_state = core and fetch_group_state(core_key, core.flow_id, core.execution_id)
  return ok(flow_eligibility(core, meta, group_state))
end

server.register_function{
  function_name = 'ff_evaluate_flow_eligibility',
  callback = ff_evaluate_flow_eligibility,
  flags = { 'no-writes' },
}
