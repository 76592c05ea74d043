-- ff_replay_execution: gives an ended execution another run. Uses the server's time.
--
-- KEYS   1 core, 2 terminal, 3 eligible, 4 lease history, then for a skipped flow member
--        5 blocked:dependencies, 6 deps:meta, 7 deps:unresolved, 8… dep of each incoming edge
-- ARGV   1 execution_id, 2 now_ms (ignored), 3… edge_id of each dep
-- Reply  OK, <unsatisfied edges> for a skipped flow member, which waits for them again
--        OK, "0" for any other execution, which is eligible
--        refused: execution_not_found; execution_not_terminal; max_replays_exhausted;
--        invalid_input, edges (a skipped flow member without its edges, or not a dep for each)
--
-- The policy, which may hold max_replay_count, has no place in KEYS: its name is built from KEYS 1.

local FIXED_KEYS = 7
local DEFAULT_MAX_REPLAYS = 10

local function max_replays(policy_key)
  local policy = decode_json(text(server.call('GET', policy_key)))
  local limit = type(policy) == 'table' and policy.max_replay_count
  return type(limit) == 'number' and limit or DEFAULT_MAX_REPLAYS
end

-- Makes the impossible ones of the edges unsatisfied again; how many edges the execution waits for now.
local function reopen_dependencies(keys, args, now)
  local meta_key, unresolved_key = keys[6], keys[7]
  local reopened = 0
  for position = FIXED_KEYS + 1, #keys do
    local dep_key, edge_id = keys[position], args[position - FIXED_KEYS + 2]
    if server.call('HGET', dep_key, 'state') == 'impossible' then
      server.call('HSET', dep_key, 'state', 'unsatisfied', 'last_resolved_at', '')
      server.call('SADD', unresolved_key, edge_id)
      reopened = reopened + 1
    end
  end
  local impossible = count(server.call('HGET', meta_key, 'impossible_required_count')) - reopened
  local unsatisfied = whole(server.call('SCARD', unresolved_key))
  server.call('HSET', meta_key, 'unsatisfied_required_count', unsatisfied, 'impossible_required_count',
    whole(math.max(0, impossible)), 'last_dependency_update_at', now)
  return unsatisfied
end

local function ff_replay_execution(keys, args)
  if #keys < 4 or #args < 2 then
    check_arity('ff_replay_execution', keys, 4, args, 2)
  end
  local core_key, terminal_key, eligible_key, history_key, blocked_key = unpack(keys, 1, 5)
  local execution_id = args[1]

  local core = fetch(core_key, 'lifecycle_phase', 'terminal_outcome', 'flow_id', 'replay_count', 'created_at',
    'priority')
  if not core then
    return refuse('execution_not_found')
  end
  if core.lifecycle_phase ~= 'terminal' then
    return refuse('execution_not_terminal')
  end
  local replays = count(core.replay_count)
  if replays >= max_replays(sibling(core_key, 'policy')) then
    return refuse('max_replays_exhausted', whole(replays))
  end
  local waits_again = core.terminal_outcome == 'skipped' and core.flow_id ~= ''
  if waits_again and (#keys <= FIXED_KEYS or #keys - FIXED_KEYS ~= #args - 2) then
    return refuse('invalid_input', 'edges')
  end

  local now = whole(server_now())
  local replay_count = whole(replays + 1)
  local vector, unsatisfied = eligible_state('pending_replay_attempt'), '0'
  server.call('ZREM', terminal_key, execution_id)
  if waits_again then
    vector, unsatisfied = blocked_state('pending_replay_attempt'), reopen_dependencies(keys, args, now)
    server.call('ZADD', blocked_key, whole(count(core.created_at)), execution_id)
  else
    server.call('ZADD', eligible_key, eligible_score(core), execution_id)
  end
  transition(core_key, vector, now, 'replay_count', replay_count, 'completed_at', '', 'replayed_at', now)
  server.call('XADD', history_key, '*', 'event', 'replayed', 'replay_count', replay_count, 'at', now)
  return ok(unsatisfied)
end

server.register_function{ function_name = 'ff_replay_execution', callback = ff_replay_execution }
