-- The state vector and its transitions. Every transition writes all eight fields and both times, so a record never
-- mixes two states. The possible states:
--
--   phase      ownership  eligibility              reason                     outcome    public
--   runnable   unowned    eligible_now             waiting_for_worker         none       waiting
--   runnable   unowned    not_eligible_until_time  waiting_for_delay          none       delayed
--   runnable   unowned    not_eligible_until_time  waiting_for_retry_backoff  none       delayed
--   runnable   unowned    blocked_by_dependencies  waiting_for_children       none       waiting_children
--   active     leased     not_applicable           none                       none       active
--   terminal   unowned    not_applicable           none                       success    completed
--   terminal   unowned    not_applicable           none                       failed     failed
--   terminal   unowned    not_applicable           none                       cancelled  cancelled
--   terminal   unowned    not_applicable           none                       skipped    skipped

local MAX_PRIORITY = 9000
local PRIORITY_WEIGHT = 1000000000000

local function state_vector(phase, ownership, eligibility, reason, outcome, attempt_state, public)
  return {
    lifecycle_phase = phase,
    ownership_state = ownership,
    eligibility_state = eligibility,
    blocking_reason = reason,
    blocking_detail = '',
    terminal_outcome = outcome,
    attempt_state = attempt_state,
    public_state = public,
  }
end

local function eligible_state(attempt_state)
  return state_vector('runnable', 'unowned', 'eligible_now', 'waiting_for_worker', 'none', attempt_state, 'waiting')
end

local function delayed_state(reason, attempt_state)
  return state_vector('runnable', 'unowned', 'not_eligible_until_time', reason, 'none', attempt_state, 'delayed')
end

-- A blocked execution with a delay_until has a detail that says so. Reading a field that most records lack is slow, and
-- every released child would pay for it: the detail tells whether there is one to read.
local function blocked_state(attempt_state, delay_until)
  local vector = state_vector('runnable', 'unowned', 'blocked_by_dependencies', 'waiting_for_children', 'none',
    attempt_state, 'waiting_children')
  if delay_until ~= '' then
    vector.blocking_detail = 'delayed until ' .. delay_until
  end
  return vector
end

local function active_state()
  return state_vector('active', 'leased', 'not_applicable', 'none', 'none', 'running_attempt', 'active')
end

local function terminal_state(outcome, attempt_state)
  local public = outcome == 'success' and 'completed' or outcome
  return state_vector('terminal', 'unowned', 'not_applicable', 'none', outcome, attempt_state, public)
end

-- Writes a state vector without its detail, the time of the change (milliseconds, as text), and more fields as names and
-- values.
local function write_state(core_key, vector, now, ...)
  -- Valkey stores a small hash as a list in the order of first writes, and searches it from the start. The fields that
  -- every later transition reads and writes therefore come first.
  server.call('HSET', core_key, 'lifecycle_phase', vector.lifecycle_phase, 'ownership_state', vector.ownership_state,
    'eligibility_state', vector.eligibility_state, 'blocking_reason', vector.blocking_reason,
    'terminal_outcome', vector.terminal_outcome, 'attempt_state', vector.attempt_state,
    'public_state', vector.public_state, 'last_transition_at', now, 'last_mutation_at', now, ...)
end

-- Writes a complete state vector, the time of the change, and more fields as names and values.
local function transition(core_key, vector, now, ...)
  write_state(core_key, vector, now, 'blocking_detail', vector.blocking_detail, ...)
end

-- Removes the fields that are empty in an execution without an owner and without a detail: a missing field means the same,
-- and an empty one costs memory. The epoch stays: the next lease needs a higher one.
local function clear_ownership(core_key)
  server.call('HDEL', core_key, 'blocking_detail', 'current_lease_id', 'current_worker_id', 'current_worker_instance_id',
    'lease_acquired_at', 'lease_expires_at', 'lease_last_renewed_at', 'lease_renewal_deadline')
end

-- Ends an execution that may have an owner: the record keeps no empty field. More fields may follow.
local function end_execution(core_key, outcome, attempt_state, now, ...)
  clear_ownership(core_key)
  write_state(core_key, terminal_state(outcome, attempt_state), now, 'completed_at', now, ...)
end

local function has_no_outcome(core)
  return core.terminal_outcome == 'none' or core.terminal_outcome == ''
end

-- Returns whether the current attempt has started and not ended.
local function has_open_attempt(core)
  return core.attempt_state == 'running_attempt' or core.attempt_state == 'attempt_interrupted'
end

-- Clamps a priority to an integer from 0 to 9000, the range in which scores stay exact.
local function clamped_priority(priority)
  return math.max(0, math.min(MAX_PRIORITY, math.floor(tonumber(priority) or 0)))
end

-- Returns the score in the eligible zset: higher priorities first, then older executions.
local function eligible_score(core)
  return format_integer(number_or_zero(core.created_at) - clamped_priority(core.priority) * PRIORITY_WEIGHT)
end

-- Returns a record's delay_until, or '' if that time has come by the server's clock.
local function pending_delay(delay_until)
  return delay_until ~= '' and number_or_zero(delay_until) > server_now() and delay_until or ''
end

-- Returns the delay_until of a blocked execution, or '' if it has none or that time has come. `detail` is its
-- blocking_detail, as read from the record.
local function fetch_pending_delay(core_key, detail)
  if not detail or detail == '' then
    return ''
  end
  return pending_delay(text_or_empty(server.call('HGET', core_key, 'delay_until')))
end

-- Schedules an execution that waits for no dependency: delayed if its delay_until is not empty, else eligible. `core`
-- needs execution_id, delay_until (as pending_delay returns it), created_at and priority. More fields may follow.
local function schedule(core_key, core, attempt_state, eligible_key, now, ...)
  if core.delay_until ~= '' then
    local reason = attempt_state == 'pending_retry_attempt' and 'waiting_for_retry_backoff' or 'waiting_for_delay'
    transition(core_key, delayed_state(reason, attempt_state), now, ...)
    server.call('ZADD', sibling_key(eligible_key, 'delayed'), core.delay_until, core.execution_id)
    return
  end
  transition(core_key, eligible_state(attempt_state), now, ...)
  server.call('ZADD', eligible_key, eligible_score(core), core.execution_id)
end

-- Schedules a blocked execution whose dependencies are satisfied. `core` also needs attempt_state.
local function unblock(core_key, core, blocked_key, eligible_key, now)
  local attempt_state = core.attempt_state
  if attempt_state == 'none' or attempt_state == '' then
    attempt_state = 'pending_first_attempt'
  end
  server.call('ZREM', blocked_key, core.execution_id)
  schedule(core_key, core, attempt_state, eligible_key, now)
end

-- The zsets of a lane in which a runnable execution can be, by its eligibility.
local INDEX_BY_ELIGIBILITY = {
  eligible_now = 'eligible',
  not_eligible_until_time = 'delayed',
  blocked_by_dependencies = 'blocked:dependencies',
  blocked_by_budget = 'blocked:budget',
  blocked_by_quota = 'blocked:quota',
  blocked_by_route = 'blocked:route',
  blocked_by_operator = 'blocked:operator',
}

-- Removes a runnable execution from the zset of its lane that holds it; from all of them if its state names none.
-- `lane_prefix` is the part of their keys before the name.
local function leave_lane(lane_prefix, eligibility, execution_id)
  local index = INDEX_BY_ELIGIBILITY[eligibility]
  if index then
    server.call('ZREM', lane_prefix .. index, execution_id)
    return
  end
  for _, name in pairs(INDEX_BY_ELIGIBILITY) do
    server.call('ZREM', lane_prefix .. name, execution_id)
  end
end

-- Ends the record of the open attempt, and closes its output stream if there is one.
local function end_attempt(attempt_key, stream_key, now, attempt_state, closed_reason, ...)
  if not is_placeholder(attempt_key) then
    server.call('HSET', attempt_key, 'attempt_state', attempt_state, 'ended_at', now, ...)
  end
  if not is_placeholder(stream_key) and server.call('EXISTS', stream_key) == 1 then
    server.call('HSET', stream_key, 'closed_at', now, 'closed_reason', closed_reason)
  end
end
