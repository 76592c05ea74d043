-- ff_promote_delayed: makes a delayed execution eligible once its delay has elapsed. Uses the server's time.
-- FlowFabric does not have this function: its scheduler does this, and Sluice's workers run without that scheduler.
--
-- KEYS      1 core, 2 delayed, 3 eligible
-- ARGV      1 execution_id, 2 now_ms (ignored)
-- Reply     OK
-- Refusals  execution_not_found; not_runnable; not_delayed; delay_not_elapsed, <delay_until, ms since the epoch>
-- Publishes nothing.
-- Cost      O(log n) in the size of the lane's zsets, at most 5 commands.

local function ff_promote_delayed(keys, args)
  check_arity('ff_promote_delayed', keys, 3, args, 2)
  local core_key, delayed_key, eligible_key = unpack(keys)
  local execution_id = args[1]

  local core = fetch_fields(core_key, 'lifecycle_phase', 'eligibility_state', 'attempt_state', 'delay_until',
    'created_at', 'priority')
  if not core then
    return refuse('execution_not_found')
  end
  if core.lifecycle_phase ~= 'runnable' then
    return refuse('not_runnable')
  end
  if core.eligibility_state ~= 'not_eligible_until_time' then
    return refuse('not_delayed')
  end
  local now_ms = server_now()
  if number_or_zero(core.delay_until) > now_ms then
    return refuse('delay_not_elapsed', core.delay_until)
  end

  transition(core_key, eligible_state(core.attempt_state), format_integer(now_ms), 'delay_until', '')
  server.call('ZREM', delayed_key, execution_id)
  server.call('ZADD', eligible_key, eligible_score(core), execution_id)
  return ok()
end

server.register_function{ function_name = 'ff_promote_delayed', callback = ff_promote_delayed }
