-- ff_change_priority: moves an eligible execution in the order in which workers claim. Uses the server's time.
--
-- KEYS      1 core, 2 eligible
-- ARGV      1 execution_id, 2 priority (clamped to 0 to 9000)
-- Reply     OK, <priority before>, <priority now>
-- Refusals  invalid_input, priority; execution_not_found; execution_not_eligible, <phase>, <eligibility>
-- Publishes nothing.
-- Cost      O(log n) in the size of the lane's eligible zset, 3 commands.

local function ff_change_priority(keys, args)
  check_arity('ff_change_priority', keys, 2, args, 2)
  local core_key, eligible_key = unpack(keys)
  local execution_id, requested = unpack(args)

  local number = tonumber(requested)
  -- tonumber reads "nan", which no comparison can clamp.
  if not number or number ~= number then
    return refuse('invalid_input', 'priority')
  end
  local core = fetch_fields(core_key, 'lifecycle_phase', 'eligibility_state', 'created_at', 'priority')
  if not core then
    return refuse('execution_not_found')
  end
  if core.lifecycle_phase ~= 'runnable' or core.eligibility_state ~= 'eligible_now' then
    return refuse('execution_not_eligible', core.lifecycle_phase, core.eligibility_state)
  end

  local before = format_integer(clamped_priority(core.priority))
  local priority = format_integer(clamped_priority(requested))
  server.call('HSET', core_key, 'priority', priority, 'last_mutation_at', format_integer(server_now()))
  add_to_zset(eligible_key, eligible_score({ created_at = core.created_at, priority = priority }), execution_id)
  return ok(before, priority)
end

server.register_function{ function_name = 'ff_change_priority', callback = ff_change_priority }
