-- ff_drain_sibling_cancel_group: records that the siblings of a decided group are cancelled. Idempotent.
--
-- KEYS      1 pending_cancel_groups, 2 edgegroup
-- ARGV      1 flow_id, 2 the child's execution id
-- Reply     OK, drained | already_drained | drained_sans_group, ""
-- Refusals  invalid_args
-- Publishes nothing.
-- Cost      O(1), at most 3 commands.

local function ff_drain_sibling_cancel_group(keys, args)
  check_arity('ff_drain_sibling_cancel_group', keys, 2, args, 2)
  local pending_key, group_key = unpack(keys)
  local flow_id, child_id = unpack(args)

  if flow_id == '' or child_id == '' then
    return refuse('invalid_args')
  end
  local removed = server.call('SREM', pending_key, flow_id .. '|' .. child_id)
  local has_group = server.call('EXISTS', group_key) == 1
  if has_group then
    server.call('HDEL', group_key, 'cancel_siblings_pending_flag', 'cancel_siblings_pending_members')
  end
  if removed == 0 then
    return ok('already_drained', '')
  end
  return ok(has_group and 'drained' or 'drained_sans_group', '')
end

server.register_function{
  function_name = 'ff_drain_sibling_cancel_group',
  callback = ff_drain_sibling_cancel_group,
}
