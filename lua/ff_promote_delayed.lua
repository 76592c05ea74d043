-- ff_promote_delayed: makes a delayed execution eligible once its delay has elapsed.
--
-- KEYS      1 core, 2 delayed, 3 eligible
-- ARGV      1 execution_id, 2 now_ms (used, also for timestamps)
-- Reply     OK, promoted
--           OK, not_found_cleaned | not_runnable_cleaned | not_delayed_cleaned: the entry in KEYS 2 is removed
--           OK, not_yet_due: delay_until is later than now_ms, nothing is written
-- Refusals  invalid_input, now_ms
-- Publishes nothing.
-- Cost      O(log n) in the size of the lane's zsets, at most 5 commands.
--
-- An execution that got dependencies while it was delayed keeps its delay for the time when they are satisfied. If that
-- delay is over at now_ms, not_delayed_cleaned also clears delay_until. The SDK needs this for a root that another
-- client blocked: it ends the delay early by passing a later time.

local function ff_promote_delayed(keys, args)
  check_arity('ff_promote_delayed', keys, 3, args, 2)
  local core_key, delayed_key, eligible_key = unpack(keys)
  local execution_id, now = unpack(args)

  local now_ms = parse_milliseconds(now)
  if not now_ms then
    return refuse('invalid_input', 'now_ms')
  end
  local core = fetch_fields(core_key, 'lifecycle_phase', 'eligibility_state', 'attempt_state', 'delay_until',
    'created_at', 'priority')
  local stale = not core and 'not_found_cleaned'
    or core.lifecycle_phase ~= 'runnable' and 'not_runnable_cleaned'
    or core.eligibility_state ~= 'not_eligible_until_time' and 'not_delayed_cleaned'
  if stale then
    server.call('ZREM', delayed_key, execution_id)
    if stale == 'not_delayed_cleaned' and core.eligibility_state == 'blocked_by_dependencies'
      and core.delay_until ~= '' and number_or_zero(core.delay_until) <= now_ms then
      server.call('HDEL', core_key, 'delay_until')
      server.call('HSET', core_key, 'blocking_detail', '', 'last_mutation_at', now)
    end
    return ok(stale)
  end
  if number_or_zero(core.delay_until) > now_ms then
    return ok('not_yet_due')
  end

  transition(core_key, eligible_state(core.attempt_state), now)
  server.call('HDEL', core_key, 'delay_until')
  server.call('ZREM', delayed_key, execution_id)
  server.call('ZADD', eligible_key, eligible_score(core), execution_id)
  return ok('promoted')
end

server.register_function{ function_name = 'ff_promote_delayed', callback = ff_promote_delayed }
