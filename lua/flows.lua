-- Reads a flow's record and checks that the flow is open.

local TERMINAL_FLOW_STATES = { cancelled = true, completed = true, failed = true }

local function fetch_flow(flow_key)
  return fetch_fields(flow_key, 'flow_id', 'public_flow_state', 'graph_revision', 'node_count')
end

-- Returns a refusal unless the flow exists and is not terminal.
local function refuse_unless_open(flow)
  if not flow then
    return refuse('flow_not_found')
  end
  if TERMINAL_FLOW_STATES[flow.public_flow_state] then
    return refuse('flow_already_terminal')
  end
  return nil
end
