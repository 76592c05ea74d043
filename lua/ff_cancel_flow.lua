-- ff_cancel_flow: closes a flow. The caller cancels the members, which the reply lists. Uses the server's time.
--
-- KEYS      1 flow core, 2 members, 3 flow_index (not touched)
-- ARGV      1 flow_id, 2 reason, 3 cancellation_policy (stored and returned as given), 4 now_ms (ignored)
-- Reply     OK, cancellation_policy, member…
-- Refusals  flow_not_found; flow_already_terminal
-- Publishes nothing.
-- Cost      O(members): one SMEMBERS, and a reply with every member.

local function ff_cancel_flow(keys, args)
  check_arity('ff_cancel_flow', keys, 3, args, 4)
  local flow_key, members_key = unpack(keys)
  local _, reason, cancellation_policy = unpack(args)

  local refusal = refuse_unless_open(fetch_flow(flow_key))
  if refusal then
    return refusal
  end

  local now = format_integer(server_now())
  server.call('HSET', flow_key, 'public_flow_state', 'cancelled', 'cancelled_at', now, 'cancel_reason', reason,
    'cancellation_policy', cancellation_policy, 'last_mutation_at', now)
  -- Not unpack: it fails with several thousand members.
  local reply = ok(cancellation_policy)
  for _, member in ipairs(server.call('SMEMBERS', members_key)) do
    reply[#reply + 1] = member
  end
  return reply
end

server.register_function{ function_name = 'ff_cancel_flow', callback = ff_cancel_flow }
