-- ff_replay_execution: makes a terminal execution runnable again. Uses the server's time.
--
-- KEYS      1 core, 2 terminal, 3 eligible, 4 lease history; for a skipped flow member also
--           5 blocked:dependencies, 6 deps:meta, 7 deps:unresolved, 8… dep of each incoming edge
-- ARGV      1 execution_id, 2 now_ms (ignored), 3… edge_id of each dep; for any other execution, 3 (optional) its
--           replay_count as the caller read it
-- Reply     OK, <unsatisfied edges> for a skipped flow member
--           OK, "0" for any other execution, which is eligible at once
-- Refusals  execution_not_found; execution_not_terminal; execution_not_terminal, <replays> (it was replayed, and has ended again,
--           since the caller read it); flow_purged; max_replays_exhausted, <replays>;
--           invalid_input, edges (no edges for a skipped flow member, or the numbers of deps and edge ids differ);
--           invalid_input, edges, quorum (its group needs more successes than these edges can still bring)
-- Publishes nothing.
-- Cost      O(edges + log n): at most 12 commands, and for a skipped flow member up to 9 more and 3 for each edge.
--
-- A skipped flow member waits again for its impossible edges. If it has an any_of or quorum group, the group drops
-- the reopened edges from its counts, along with its decision and any cancellation that is still pending. Edges
-- applied after the decision may already satisfy the group: the execution is then scheduled at once.
--
-- A delay_until that lies ahead still holds for a skipped flow member, once its edges are satisfied. For any other
-- execution it belongs to the run that ended, and is cleared.
--
-- KEYS has no position for the policy (with max_replay_count), or in the 14-KEYS edition for the edge group and
-- pending_cancel_groups. Their names are derived from KEYS 1.

local FIXED_KEYS = 7
local DEFAULT_MAX_REPLAYS = 10

local function max_replays(policy_key)
  local policy = decode_json(text_or_empty(server.call('GET', policy_key)))
  local limit = type(policy) == 'table' and policy.max_replay_count
  return type(limit) == 'number' and limit or DEFAULT_MAX_REPLAYS
end

-- Returns the dep key and edge id of each impossible edge, without duplicates.
local function impossible_edges(keys, args)
  local edges, seen = {}, {}
  for position = FIXED_KEYS + 1, #keys do
    local dep_key = keys[position]
    if not seen[dep_key] and server.call('HGET', dep_key, 'state') == 'impossible' then
      edges[#edges + 1] = { dep_key = dep_key, edge_id = args[position - FIXED_KEYS + 2] }
    end
    seen[dep_key] = true
  end
  return edges
end

-- Makes impossible edges unsatisfied again. Returns the number of edges that the execution waits for, as text.
local function reopen_dependencies(keys, edges, now)
  local meta_key, unresolved_key = keys[6], keys[7]
  for _, edge in ipairs(edges) do
    server.call('HSET', edge.dep_key, 'state', 'unsatisfied', 'last_resolved_at', '')
    server.call('SADD', unresolved_key, edge.edge_id)
  end
  local impossible = number_or_zero(server.call('HGET', meta_key, 'impossible_required_count')) - #edges
  local unsatisfied = format_integer(server.call('SCARD', unresolved_key))
  server.call('HSET', meta_key, 'unsatisfied_required_count', unsatisfied, 'impossible_required_count',
    format_integer(math.max(0, impossible)), 'last_dependency_update_at', now)
  return unsatisfied
end

local function ff_replay_execution(keys, args)
  if #keys < 4 or #args < 2 then
    check_arity('ff_replay_execution', keys, 4, args, 2)
  end
  local core_key, terminal_key, eligible_key, history_key, blocked_key = unpack(keys, 1, 5)
  local execution_id = args[1]

  local core = fetch_fields(core_key, 'lifecycle_phase', 'terminal_outcome', 'public_state', 'flow_id', 'replay_count',
    'created_at', 'priority', 'delay_until')
  if not core then
    return refuse('execution_not_found')
  end
  if core.lifecycle_phase ~= 'terminal' then
    return refuse('execution_not_terminal')
  end
  local refusal = core.flow_id ~= '' and refuse_if_purged(flow_key_of(core_key, core.flow_id, 'purged'))
  if refusal then
    return refusal
  end
  local is_skipped_member = core.terminal_outcome == 'skipped' and core.flow_id ~= ''
  local replays = number_or_zero(core.replay_count)
  -- An edge id is no number: a caller that has read a skip, and finds another end, is not refused here.
  local expected = not is_skipped_member and tonumber(args[3])
  if expected and expected ~= replays then
    return refuse('execution_not_terminal', format_integer(replays))
  end
  if replays >= max_replays(sibling_key(core_key, 'policy')) then
    return refuse('max_replays_exhausted', format_integer(replays))
  end
  if is_skipped_member and (#keys <= FIXED_KEYS or #keys - FIXED_KEYS ~= #args - 2) then
    return refuse('invalid_input', 'edges')
  end
  local edges = is_skipped_member and impossible_edges(keys, args) or {}
  local decision = is_skipped_member and group_state_without(core_key, core.flow_id, execution_id, #edges)
  if decision == 'impossible' then
    return refuse('invalid_input', 'edges', 'quorum')
  end

  local now = format_integer(server_now())
  local replay_count = format_integer(replays + 1)
  local unsatisfied = '0'
  server.call('ZREM', terminal_key, execution_id)
  if is_skipped_member then
    unsatisfied = reopen_dependencies(keys, edges, now)
    reopen_group(core_key, core.flow_id, execution_id, #edges, decision)
  end
  if is_skipped_member and decision ~= 'satisfied' then
    server.call('ZADD', blocked_key, format_integer(number_or_zero(core.created_at)), execution_id)
    transition(core_key, blocked_state('pending_replay_attempt', core.delay_until), now, 'replay_count', replay_count,
      'completed_at', '', 'replayed_at', now)
  else
    core.execution_id = execution_id
    core.delay_until = is_skipped_member and pending_delay(core.delay_until) or ''
    schedule(core_key, core, 'pending_replay_attempt', eligible_key, now, 'replay_count', replay_count, 'completed_at',
      '', 'replayed_at', now)
    if core.delay_until == '' then
      server.call('HDEL', core_key, 'delay_until')
    end
  end
  if core.terminal_outcome == 'skipped' then
    server.call('HDEL', core_key, 'skip_root', 'skip_reason')
  end
  if core.flow_id ~= '' then
    count_replayed_member(core_key, core.flow_id, core.public_state)
  end
  add_history_event(history_key, 'replay_initiated', now, 'replay_count', replay_count, 'replay_type',
    is_skipped_member and 'skipped_flow_member' or 'normal')
  return ok(unsatisfied)
end

server.register_function{ function_name = 'ff_replay_execution', callback = ff_replay_execution }
