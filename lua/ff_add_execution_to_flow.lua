-- ff_add_execution_to_flow: adds an existing execution to a flow as a member. Idempotent. Uses the server's time.
--
-- KEYS      1 flow core, 2 members, 3 flow_index, 4 exec core
-- ARGV      1 flow_id, 2 execution_id, 3 now_ms (ignored)
-- Reply     OK | ALREADY_SATISFIED, execution_id, node_count
-- Refusals  flow_purged; flow_not_found; flow_already_terminal; execution_not_found; already_member_of_different_flow:<other>
-- Publishes nothing.
-- Cost      O(1), at most 19 commands.
--
-- A call for an existing member restores a lost flow_id on its record and a lost entry in flow_index. A new
-- member is counted in the flow's summary (flow_progress.lua), also if it has ended before.

local function ff_add_execution_to_flow(keys, args)
  check_arity('ff_add_execution_to_flow', keys, 4, args, 3)
  local flow_key, members_key, flow_index_key, core_key = unpack(keys)
  local flow_id, execution_id = unpack(args)

  local flow = fetch_flow(flow_key)
  local refusal = refuse_unless_open(flow_key, flow)
  if refusal then
    return refusal
  end
  local core = fetch_fields(core_key, 'execution_id', 'lifecycle_phase', 'public_state', 'flow_id')
  if not core then
    return refuse('execution_not_found')
  end
  if core.flow_id ~= '' and core.flow_id ~= flow_id then
    return refuse('already_member_of_different_flow:' .. core.flow_id)
  end

  local now = format_integer(server_now())
  server.call('SADD', flow_index_key, flow_id)
  if core.flow_id == '' then
    server.call('HSET', core_key, 'flow_id', flow_id, 'last_mutation_at', now)
  end
  if server.call('SADD', members_key, execution_id) == 0 then
    return already_satisfied(execution_id, format_integer(number_or_zero(flow.node_count)))
  end
  local node_count = server.call('HINCRBY', flow_key, 'node_count', 1)
  server.call('HINCRBY', flow_key, 'graph_revision', 1)
  server.call('HSET', flow_key, 'last_mutation_at', now)
  if hash_tag(core_key) == hash_tag(flow_key) then
    count_new_member(flow_key, flow_id, core, node_count == 1)
  end
  return ok(execution_id, format_integer(node_count))
end

server.register_function{ function_name = 'ff_add_execution_to_flow', callback = ff_add_execution_to_flow }
