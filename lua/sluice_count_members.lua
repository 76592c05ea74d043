-- sluice_count_members: counts the members of a flow from their records, and starts the flow's counts with them. For flows
-- that FlowFabric or Sluice 0.1 created, which have no counts and no entry in flows_created: they get both. Idempotent.
-- FlowFabric does not have it.
--
-- KEYS      1 flow core, 2 members, 3 summary
-- ARGV      1 flow_id
-- Reply     OK, <open members>, <members>
-- Refusals  flow_not_found
-- Publishes nothing.
-- Cost      O(members): one HMGET for each, about 0.1 s for 100,000. It runs once for each such flow.
--
-- A member without a record was deleted and counts as ended, in no column. The flow's end is the last completed_at of its
-- members. A flow without members has not ended.

local ENDED_COLUMNS = { 'completed', 'failed', 'cancelled', 'expired', 'skipped' }

local function sluice_count_members(keys, args)
  check_arity('sluice_count_members', keys, 3, args, 1)
  local flow_key, members_key, summary_key = unpack(keys)
  local flow_id = args[1]

  if server.call('EXISTS', flow_key) == 0 then
    return refuse('flow_not_found')
  end
  local exec_prefix = 'ff:exec:' .. hash_tag(flow_key) .. ':'
  local members = server.call('SMEMBERS', members_key)
  local open, ended_at, columns = 0, 0, {}
  for _, member in ipairs(members) do
    local values = server.call('HMGET', exec_prefix .. member .. ':core', 'lifecycle_phase', 'public_state',
      'completed_at')
    if values[1] == 'terminal' then
      columns[values[2]] = (columns[values[2]] or 0) + 1
      ended_at = math.max(ended_at, number_or_zero(values[3]))
    elseif values[1] then
      open = open + 1
    end
  end

  list_flow(flow_key, flow_id, server.call('HGET', flow_key, 'created_at'))
  server.call('DEL', summary_key)
  server.call('HSET', summary_key, 'members_open', format_integer(open), 'total_members', format_integer(#members))
  for _, column in ipairs(ENDED_COLUMNS) do
    if columns[column] then
      server.call('HSET', summary_key, 'members_' .. column, format_integer(columns[column]))
    end
  end
  if open == 0 and #members > 0 then
    add_ended_flow(flow_key, flow_id, format_integer(ended_at > 0 and ended_at or server_now()))
  else
    remove_ended_flow(flow_key, flow_id, summary_key)
  end
  return ok(format_integer(open), format_integer(#members))
end

server.register_function{ function_name = 'sluice_count_members', callback = sluice_count_members }
