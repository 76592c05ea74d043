-- Counts a flow's members by how they ended, in ff:flow:T:F:summary, and keeps ff:idx:T:flows_ended and
-- ff:idx:T:flow_ends_unsent (the ends that no message reported yet).
--
-- members_open is Sluice's own field: the members that have not ended. A flow is counted if the field exists. Flows of
-- FlowFabric and of Sluice 0.1 lack it and are left alone: sluice_count_members counts them. A flow of another slot has no
-- summary under this hash tag, and is therefore not counted either.

local function flow_key_of(core_key, flow_id, name)
  return 'ff:flow:' .. hash_tag(core_key) .. ':' .. flow_id .. ':' .. name
end

-- Records when all members of a flow had ended: for the retention, and for the message about the end.
local function add_ended_flow(key, flow_id, ended_at)
  local index = 'ff:idx:' .. hash_tag(key)
  server.call('ZADD', index .. ':flows_ended', ended_at, flow_id)
  server.call('ZADD', index .. ':flow_ends_unsent', ended_at, flow_id)
end

-- Records that a flow has an open member again. Its retention is computed anew at its next end.
local function remove_ended_flow(key, flow_id, summary_key)
  local index = 'ff:idx:' .. hash_tag(key)
  if server.call('ZREM', index .. ':flows_ended', flow_id) == 1 then
    server.call('ZREM', index .. ':flow_ends_unsent', flow_id)
    server.call('HDEL', summary_key, 'retained_until')
  end
end

-- Counts a member that has just ended in `column`, for example members_completed. Every end of an execution pays for it:
-- about 1.5 µs, most of it for the two commands.
local function count_ended_member(core_key, flow_id, column)
  if flow_id == '' then
    return
  end
  local summary_key = 'ff:flow:' .. hash_tag(core_key) .. ':' .. flow_id .. ':summary'
  -- One command counts and tells the last member. Without the field, it creates it, and the field is removed again.
  local open = server.call('HINCRBY', summary_key, 'members_open', -1)
  if open < 0 then
    server.call('HDEL', summary_key, 'members_open')
    return
  end
  server.call('HINCRBY', summary_key, column, 1)
  if open == 0 then
    add_ended_flow(core_key, flow_id, format_integer(server_now()))
  end
end

-- Takes back that a member has ended.
local function count_replayed_member(core_key, flow_id, public_state)
  local summary_key = flow_key_of(core_key, flow_id, 'summary')
  if server.call('HEXISTS', summary_key, 'members_open') == 0 then
    return
  end
  server.call('HINCRBY', summary_key, 'members_open', 1)
  server.call('HINCRBY', summary_key, 'members_' .. public_state, -1)
  remove_ended_flow(core_key, flow_id, summary_key)
end

-- Counts a new member, whose record may say that it has ended already. The first member starts the counts.
local function count_new_member(flow_key, flow_id, core, is_first)
  local summary_key = sibling_key(flow_key, 'summary')
  local open = is_first and '0' or server.call('HGET', summary_key, 'members_open')
  if not open then
    return
  end
  local has_ended = core.lifecycle_phase == 'terminal'
  open = tonumber(open) + (has_ended and 0 or 1)
  server.call('HSET', summary_key, 'members_open', format_integer(open))
  server.call('HINCRBY', summary_key, 'total_members', 1)
  if has_ended then
    server.call('HINCRBY', summary_key, 'members_' .. core.public_state, 1)
  end
  if open == 0 then
    add_ended_flow(flow_key, flow_id, format_integer(server_now()))
  elseif open == 1 and not has_ended and not is_first then
    remove_ended_flow(flow_key, flow_id, summary_key)
  end
end
