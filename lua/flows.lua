-- What flows have in common.

local TERMINAL_FLOW_STATES = { cancelled = true, completed = true, failed = true }

local function fetch_flow(flow_key)
  return fetch(flow_key, 'flow_id', 'public_flow_state', 'graph_revision', 'node_count')
end

-- A refusal, unless the flow is there and can still change.
local function refuse_unless_open(flow)
  if not flow then
    return refuse('flow_not_found')
  end
  if TERMINAL_FLOW_STATES[flow.public_flow_state] then
    return refuse('flow_already_terminal')
  end
  return nil
end
