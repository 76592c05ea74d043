-- ff_create_flow: creates a flow without members. Idempotent. Uses the server's time.
--
-- KEYS      1 flow core, 2 members (not touched), 3 flow_index
-- ARGV      1 flow_id, 2 flow_kind, 3 namespace, 4 now_ms (ignored)
-- Reply     OK, flow_id
--           ALREADY_SATISFIED, flow_id
-- Refusals  flow_purged
-- Publishes nothing.
-- Cost      O(log n) in the number of flows of the partition, at most 6 commands.
--
-- The flow also enters flows_created, whose name is derived from KEYS 1. A repeated call restores both index entries.

local function ff_create_flow(keys, args)
  check_arity('ff_create_flow', keys, 3, args, 4)
  local flow_key, _, flow_index_key = unpack(keys)
  local flow_id, flow_kind, namespace = unpack(args)

  local refusal = refuse_if_purged(sibling_key(flow_key, 'purged'))
  if refusal then
    return refusal
  end
  server.call('SADD', flow_index_key, flow_id)
  if server.call('EXISTS', flow_key) == 1 then
    list_flow(flow_key, flow_id, server.call('HGET', flow_key, 'created_at'))
    return already_satisfied(flow_id)
  end
  local now = format_integer(server_now())
  list_flow(flow_key, flow_id, now)
  server.call('HSET', flow_key, 'flow_id', flow_id, 'flow_kind', flow_kind, 'namespace', namespace,
    'graph_revision', '0', 'node_count', '0', 'edge_count', '0', 'public_flow_state', 'open',
    'created_at', now, 'last_mutation_at', now)
  return ok(flow_id)
end

server.register_function{ function_name = 'ff_create_flow', callback = ff_create_flow }
