-- ff_ack_cancel_member: records that a member of a cancelled flow is cancelled. Checks nothing, and is idempotent.
--
-- KEYS      1 pending_cancels of the flow, 2 cancel_backlog
-- ARGV      1 execution_id, 2 flow_id
-- Reply     OK
-- Publishes nothing.
-- Cost      O(log n) in the size of the backlog, at most 3 commands.

local function ff_ack_cancel_member(keys, args)
  check_arity('ff_ack_cancel_member', keys, 2, args, 2)
  local pending_key, backlog_key = unpack(keys)
  local execution_id, flow_id = unpack(args)

  server.call('SREM', pending_key, execution_id)
  if server.call('EXISTS', pending_key) == 0 then
    server.call('ZREM', backlog_key, flow_id)
  end
  return ok()
end

server.register_function{ function_name = 'ff_ack_cancel_member', callback = ff_ack_cancel_member }
