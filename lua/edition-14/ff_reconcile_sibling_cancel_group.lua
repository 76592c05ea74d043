-- ff_reconcile_sibling_cancel_group: removes a decided group from pending_cancel_groups once none of its siblings runs.
-- Cancels nothing, and is idempotent.
--
-- KEYS      1 pending_cancel_groups, 2 edgegroup
-- ARGV      1 flow_id, 2 the child's execution id
-- Reply     OK, no_op, not_in_set
--           OK, sremmed_stale, missing_edgegroup | flag_cleared
--           OK, no_op, siblings_running   a listed sibling is not terminal
--           OK, completed_drain, ""       every listed sibling is terminal or has no record
-- Refusals  invalid_args
-- Publishes nothing.
-- Cost      O(siblings): one HGET each.
--
-- KEYS has no position for the siblings' records: their names are derived from KEYS 2 and carry its hash tag.

local function ff_reconcile_sibling_cancel_group(keys, args)
  check_arity('ff_reconcile_sibling_cancel_group', keys, 2, args, 2)
  local pending_key, group_key = unpack(keys)
  local flow_id, child_id = unpack(args)

  if flow_id == '' or child_id == '' then
    return refuse('invalid_args')
  end
  local entry = flow_id .. '|' .. child_id
  if server.call('SISMEMBER', pending_key, entry) == 0 then
    return ok('no_op', 'not_in_set')
  end
  local group = fetch_fields(group_key, 'cancel_siblings_pending_flag', 'cancel_siblings_pending_members', 'group_state',
    'policy_variant')
  if not group then
    server.call('SREM', pending_key, entry)
    return ok('sremmed_stale', 'missing_edgegroup')
  end
  if group.cancel_siblings_pending_flag ~= 'true' then
    server.call('SREM', pending_key, entry)
    return ok('sremmed_stale', 'flag_cleared')
  end
  local prefix = 'ff:exec:' .. hash_tag(group_key) .. ':'
  for sibling in string.gmatch(group.cancel_siblings_pending_members, '[^|]+') do
    local phase = text_or_empty(server.call('HGET', prefix .. sibling .. ':core', 'lifecycle_phase'))
    if phase ~= '' and phase ~= 'terminal' then
      return ok('no_op', 'siblings_running')
    end
  end
  server.call('SREM', pending_key, entry)
  server.call('HDEL', group_key, 'cancel_siblings_pending_flag', 'cancel_siblings_pending_members')
  return ok('completed_drain', '')
end

server.register_function{
  function_name = 'ff_reconcile_sibling_cancel_group',
  callback = ff_reconcile_sibling_cancel_group,
}
