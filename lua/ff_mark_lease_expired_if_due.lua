-- ff_mark_lease_expired_if_due: marks a lease as expired when its time is up. Never refuses. Uses the server's time.
--
-- KEYS      1 core, 2 lease:current (not touched), 3 lease_expiry, 4 lease:history
-- ARGV      1 execution_id
-- Reply     OK, marked_expired
--           ALREADY_SATISFIED, execution_not_found | not_active | unowned   the lease_expiry entry is removed
--           ALREADY_SATISFIED, already_expired | already_revoked | not_yet_expired
-- Publishes nothing.
-- Cost      O(log n) in the size of lease_expiry, at most 5 commands.
--
-- The lease_expiry entry of a marked lease stays, so that a worker finds the execution and reclaims it.

local function ff_mark_lease_expired_if_due(keys, args)
  check_arity('ff_mark_lease_expired_if_due', keys, 4, args, 1)
  local core_key, _, lease_expiry_key, history_key = unpack(keys)
  local execution_id = args[1]

  local core = fetch_leased_execution(core_key)
  local stale = not core and 'execution_not_found'
    or core.lifecycle_phase ~= 'active' and 'not_active'
    or core.ownership_state == 'unowned' and 'unowned'
  if stale then
    remove_from_zset(lease_expiry_key, execution_id)
    return already_satisfied(stale)
  end
  if core.ownership_state == 'lease_expired_reclaimable' then
    return already_satisfied('already_expired')
  end
  if core.ownership_state == 'lease_revoked' then
    return already_satisfied('already_revoked')
  end
  local now_ms = server_now()
  if number_or_zero(core.lease_expires_at) > now_ms then
    return already_satisfied('not_yet_expired')
  end
  mark_lease_expired(core_key, history_key, core, format_integer(now_ms))
  return ok('marked_expired')
end

server.register_function{
  function_name = 'ff_mark_lease_expired_if_due',
  callback = ff_mark_lease_expired_if_due,
}
