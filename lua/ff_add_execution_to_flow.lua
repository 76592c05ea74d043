-- ff_add_execution_to_flow: makes an execution a flow's member. Safe to repeat. Uses the server's time.
--
-- KEYS   1 flow core, 2 members, 3 flow_index, 4 exec core
-- ARGV   1 flow_id, 2 execution_id, 3 now_ms (ignored)
-- Reply  OK | ALREADY_SATISFIED, execution_id, node_count
--        refused: flow_not_found; flow_already_terminal; execution_not_found;
--        already_member_of_different_flow:<other>

local function ff_add_execution_to_flow(keys, args)
  check_arity('ff_add_execution_to_flow', keys, 4, args, 3)
  local flow_key, members_key, flow_index_key, core_key = unpack(keys)
  local flow_id, execution_id = unpack(args)

  local flow = fetch_flow(flow_key)
  local refusal = refuse_unless_open(flow)
  if refusal then
    return refusal
  end
  local core = fetch(core_key, 'execution_id', 'lifecycle_phase', 'flow_id')
  if not core then
    return refuse('execution_not_found')
  end
  if core.flow_id ~= '' and core.flow_id ~= flow_id then
    return refuse('already_member_of_different_flow:' .. core.flow_id)
  end

  local now = whole(server_now())
  server.call('SADD', flow_index_key, flow_id)
  if core.flow_id == '' then
    server.call('HSET', core_key, 'flow_id', flow_id, 'last_mutation_at', now)
  end
  if server.call('SADD', members_key, execution_id) == 0 then
    return already_satisfied(execution_id, whole(count(flow.node_count)))
  end
  local node_count = server.call('HINCRBY', flow_key, 'node_count', 1)
  server.call('HINCRBY', flow_key, 'graph_revision', 1)
  server.call('HSET', flow_key, 'last_mutation_at', now)
  return ok(execution_id, whole(node_count))
end

server.register_function{ function_name = 'ff_add_execution_to_flow', callback = ff_add_execution_to_flow }
