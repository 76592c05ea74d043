-- Searches a flow's staged edges for a path from one member to another.
--
-- Two searches alternate: forward from the start over the `out` sets, and backward from the goal over the `in` sets.
-- A path exists if they meet. None exists once either search is exhausted. The next step always goes to the search
-- with the lower cost so far, counted in edges, so both together cost about twice the smaller one. That is next to
-- nothing for a graph that is staged from its roots or from its leaves, whatever its size. The worst case is an edge
-- that joins two large parts: ff_stage_dependency_edge.lua has measurements.

local function new_search(member, set, end_field)
  return { queue = { member }, at = 1, seen = { [member] = true }, cost = 0, set = set, end_field = end_field }
end

local function is_exhausted(search)
  return search.at > #search.queue
end

local function next_cost(search)
  return search.cost + (search.degree or 1)
end

-- Counts the edges of the next member or, once they are counted, follows them. Returns true if the searches met.
local function advance(prefix, search, opposite)
  local adjacency = prefix .. search.set .. search.queue[search.at]
  if not search.degree then
    local degree = server.call('SCARD', adjacency)
    search.cost = search.cost + 1
    if degree == 0 then
      search.at = search.at + 1
    else
      search.degree = degree
    end
    return false
  end
  for _, edge_id in ipairs(server.call('SMEMBERS', adjacency)) do
    local member = server.call('HGET', prefix .. 'edge:' .. edge_id, search.end_field)
    if member and not search.seen[member] then
      if opposite.seen[member] then
        return true
      end
      search.seen[member] = true
      search.queue[#search.queue + 1] = member
    end
  end
  search.cost = search.cost + search.degree
  search.at, search.degree = search.at + 1, nil
  return false
end

-- `prefix` is the prefix of the flow's keys: ff:flow:T:F: with the last colon.
local function is_reachable(prefix, start, goal)
  local forward = new_search(start, 'out:', 'downstream_execution_id')
  local backward = new_search(goal, 'in:', 'upstream_execution_id')
  while not is_exhausted(forward) and not is_exhausted(backward) do
    local met
    if next_cost(forward) <= next_cost(backward) then
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
