-- ff_cancel_flow: closes a flow. The caller cancels the members, which the reply lists. Uses the server's time.
--
-- KEYS      1 flow core, 2 members, 3 flow_index (not touched), 4 and 5 (optional, together) pending_cancels of the
--           flow, cancel_backlog (3 to 5 may be noop)
-- ARGV      1 flow_id, 2 reason, 3 cancellation_policy (stored and returned as given), 4 now_ms (ignored),
--           5 (optional) grace_ms: how long the caller may take to cancel the members; 30,000 if empty
-- Reply     OK, cancellation_policy, member…
-- Refusals  invalid_grace_ms; flow_purged; flow_not_found; flow_already_terminal
-- Publishes nothing.
-- Cost      O(members): a reply with every member, and with KEYS 4 a copy of the set.
--
-- With KEYS 4 and 5 and the policy cancel_all, every member becomes pending: ff_ack_cancel_member removes it once it is
-- cancelled. After grace_ms, the reconciler cancels those that are left. Without these KEYS, nothing is recorded.

local DEFAULT_GRACE_MS = 30000
local MAX_GRACE_MS = 9007199254740991

-- Returns grace_ms as a number, or nil if it is not a whole number up to 2^53 - 1.
local function parse_grace(argument)
  local digits = text_or_empty(argument)
  if digits == '' then
    return DEFAULT_GRACE_MS
  end
  local grace_ms = string.find(digits, '^%d+$') and tonumber(digits)
  return grace_ms and grace_ms <= MAX_GRACE_MS and grace_ms or nil
end

local function ff_cancel_flow(keys, args)
  check_arity('ff_cancel_flow', keys, 3, args, 4)
  local flow_key, members_key, _, pending_key, backlog_key = unpack(keys)
  local flow_id, reason, cancellation_policy, _, grace = unpack(args)

  local grace_ms = parse_grace(grace)
  if not grace_ms then
    return refuse('invalid_grace_ms')
  end
  local refusal = refuse_unless_open(flow_key, fetch_flow(flow_key))
  if refusal then
    return refusal
  end

  local now_ms = server_now()
  local now = format_integer(now_ms)
  local can_record = backlog_key and not is_placeholder(pending_key) and not is_placeholder(backlog_key)
  -- First: a caller that may not run this command must not find a closed flow, which no later call can record.
  -- Not SADD with the members: unpack fails with several thousand.
  if can_record and cancellation_policy == 'cancel_all'
    and server.call('SUNIONSTORE', pending_key, members_key) > 0 then
    server.call('ZADD', backlog_key, format_integer(now_ms + grace_ms), flow_id)
  end
  server.call('HSET', flow_key, 'public_flow_state', 'cancelled', 'cancelled_at', now, 'cancel_reason', reason,
    'cancellation_policy', cancellation_policy, 'last_mutation_at', now)
  local reply = ok(cancellation_policy)
  for _, member in ipairs(server.call('SMEMBERS', members_key)) do
    reply[#reply + 1] = member
  end
  return reply
end

server.register_function{ function_name = 'ff_cancel_flow', callback = ff_cancel_flow }
