-- Reads a flow's record and checks that the flow is open.

local TERMINAL_FLOW_STATES = { cancelled = true, completed = true, failed = true }

-- Adds a flow to ff:idx:T:flows_created, by which operators list flows. Its entry stays until the flow is deleted.
local function list_flow(key, flow_id, created_at)
  local index_key = 'ff:idx:' .. hash_tag(key) .. ':flows_created'
  server.call('ZADD', index_key, format_integer(number_or_zero(created_at)), flow_id)
end

local function fetch_flow(flow_key)
  return fetch_fields(flow_key, 'flow_id', 'public_flow_state', 'graph_revision', 'node_count')
end

-- Returns a refusal if the flow was purged after its end, or is being purged. Its id stays refused for a time: a late
-- submission would otherwise run everything again.
local function refuse_if_purged(purged_key)
  return server.call('EXISTS', purged_key) == 1 and refuse('flow_purged') or nil
end

-- Returns a refusal unless the flow exists, is not purged and not terminal.
local function refuse_unless_open(flow_key, flow)
  local refusal = refuse_if_purged(sibling_key(flow_key, 'purged'))
  if refusal then
    return refusal
  end
  if not flow then
    return refuse('flow_not_found')
  end
  if TERMINAL_FLOW_STATES[flow.public_flow_state] then
    return refuse('flow_already_terminal')
  end
  return nil
end
