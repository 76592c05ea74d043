-- Whether a flow's staged edges lead from one member to another.
--
-- Two searches run at once: forward from the start over the `out` sets, backward from the goal over the `in`
-- sets. They meet if there is a way, and there is none once either has nothing left. The next step is always
-- the cheaper side's, counted in edges, so a search costs about twice what the smaller side does: nothing
-- where a graph is built from its roots or from its leaves, however many nodes it has.

local function search_from(member, set, end_field)
  return { queue = { member }, at = 1, seen = { [member] = true }, cost = 0, set = set, end_field = end_field }
end

local function is_exhausted(side)
  return side.at > #side.queue
end

local function price(side)
  return side.cost + (side.degree or 1)
end

-- Looks at how many edges the next member has or, where that is known, follows them. True when the sides met.
local function advance(prefix, side, other)
  local adjacency = prefix .. side.set .. side.queue[side.at]
  if not side.degree then
    local degree = server.call('SCARD', adjacency)
    side.cost = side.cost + 1
    if degree == 0 then
      side.at = side.at + 1
    else
      side.degree = degree
    end
    return false
  end
  for _, edge_id in ipairs(server.call('SMEMBERS', adjacency)) do
    local member = server.call('HGET', prefix .. 'edge:' .. edge_id, side.end_field)
    if member and not side.seen[member] then
      if other.seen[member] then
        return true
      end
      side.seen[member] = true
      side.queue[#side.queue + 1] = member
    end
  end
  side.cost = side.cost + side.degree
  side.at, side.degree = side.at + 1, nil
  return false
end

-- `prefix` is the flow's: ff:flow:T:F: with its last colon.
local function leads_to(prefix, start, goal)
  local forward = search_from(start, 'out:', 'downstream_execution_id')
  local backward = search_from(goal, 'in:', 'upstream_execution_id')
  while not is_exhausted(forward) and not is_exhausted(backward) do
    local met
    if price(forward) <= price(backward) then
      met = advance(prefix, forward, backward)
    else
      met = advance(prefix, backward, forward)
    end
    if met then
      return true
    end
  end
  return false
end
