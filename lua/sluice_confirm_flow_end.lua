-- sluice_confirm_flow_end: records that the message about a flow's end was sent. Idempotent. FlowFabric does not have it.
--
-- KEYS      1 flow_ends_unsent
-- ARGV      1 flow_id, 2 the flow's score in KEYS 1, as the caller read it before it sent the message
-- Reply     OK, confirmed
--           OK, changed   the flow has another end or none since, so that end is still to be sent
-- Refusals  none
-- Publishes nothing.
-- Cost      O(log n) in the number of flows in KEYS 1, at most 2 commands.

local function sluice_confirm_flow_end(keys, args)
  check_arity('sluice_confirm_flow_end', keys, 1, args, 2)
  local unsent_key = keys[1]
  local flow_id, ended_at = unpack(args)

  local score = server.call('ZSCORE', unsent_key, flow_id)
  if not score or tonumber(score) ~= tonumber(ended_at) then
    return ok('changed')
  end
  server.call('ZREM', unsent_key, flow_id)
  return ok('confirmed')
end

server.register_function{ function_name = 'sluice_confirm_flow_end', callback = sluice_confirm_flow_end }
