-- Edge groups: how many of a child's edges must succeed. Each child has one hash, ff:flow:T:F:edgegroup:E:
--
--   policy_variant     needs         decided by
--   all_of, or none    every edge    deps:meta (contract, section 6); the group only mirrors the counts
--   any_of             one edge      the group
--   quorum             k edges       the group
--
-- n counts the applied edges. succeeded, failed and skipped count the resolved ones. group_state is pending until the
-- group is decided, then satisfied or impossible; only a replay of the child resets it. For an any_of or quorum child,
-- deps:meta keeps counting its edges as unsatisfied and must be ignored.

local APPLY_KEY_COUNT = 8

-- Returns the group, or nil if there is none. Every group has at least one of the first three fields.
local function fetch_group(group_key)
  if is_placeholder(group_key) then
    return nil
  end
  local values = server.call('HMGET', group_key, 'policy_variant', 'n', 'group_state', 'succeeded', 'failed',
    'skipped', 'on_satisfied', 'k')
  if not (values[1] or values[2] or values[3]) then
    return nil
  end
  return {
    policy_variant = text_or_empty(values[1]),
    n = number_or_zero(values[2]),
    group_state = text_or_empty(values[3]),
    succeeded = number_or_zero(values[4]),
    failed = number_or_zero(values[5]),
    skipped = number_or_zero(values[6]),
    on_satisfied = text_or_empty(values[7]),
    k = text_or_empty(values[8]),
  }
end

-- Returns how many successes satisfy the group, or nil if all edges are needed.
local function quorum_of(group)
  if group and group.policy_variant == 'any_of' then
    return 1
  end
  if group and group.policy_variant == 'quorum' then
    -- At least 1: a lost k must not satisfy the group without a success.
    return math.max(1, number_or_zero(group.k))
  end
  return nil
end

-- Returns the state that the counts give: satisfied, impossible or pending.
local function evaluate_group(group, quorum)
  if group.succeeded >= quorum then
    return 'satisfied'
  end
  return group.failed + group.skipped > group.n - quorum and 'impossible' or 'pending'
end

local function group_key_of(core_key, flow_id, execution_id)
  return 'ff:flow:' .. hash_tag(core_key) .. ':' .. flow_id .. ':edgegroup:' .. execution_id
end

-- Counts an applied edge in the group of KEYS 8. Returns whether the edge blocks the child. It does not if the group is
-- already satisfied: a decided group never releases the child a second time.
local function count_applied_edge(keys)
  local group_key = keys[APPLY_KEY_COUNT]
  if is_placeholder(group_key) then
    return true
  end
  local group = fetch_group(group_key)
  if not group or group.policy_variant == '' then
    server.call('HSET', group_key, 'policy_variant', 'all_of', 'n', '1', 'succeeded', '0', 'group_state', 'pending')
    return true
  end
  server.call('HSET', group_key, 'n', format_integer(group.n + 1))
  return not (quorum_of(group) and group.group_state == 'satisfied')
end

-- The functions below serve callers that have no position for the group in KEYS. They derive its name from the core's.

-- Returns the state of an any_of or quorum group with edges: satisfied, impossible or pending. Returns nil if deps:meta
-- decides instead.
local function fetch_group_state(core_key, flow_id, execution_id)
  if flow_id == '' then
    return nil
  end
  local group = fetch_group(group_key_of(core_key, flow_id, execution_id))
  if not quorum_of(group) or group.n == 0 then
    return nil
  end
  return group.group_state
end

-- Returns the state that the group of a skipped child has once `reopened` impossible edges are unresolved again.
-- Impossible means that it needs more successes than can still come. Returns nil if the child needs all of its edges.
local function group_state_without(core_key, flow_id, execution_id, reopened)
  local group = fetch_group(group_key_of(core_key, flow_id, execution_id))
  local quorum = quorum_of(group)
  if not quorum then
    return nil
  end
  group.failed = group.failed - reopened
  return evaluate_group(group, quorum)
end

-- Removes reopened edges from the group's counts, and resets its decision. The group needs its upstreams again, so a
-- pending cancellation of them is dropped.
local function reopen_group(core_key, flow_id, execution_id, reopened, decision)
  local group_key = group_key_of(core_key, flow_id, execution_id)
  local group = fetch_group(group_key)
  if not group then
    return
  end
  -- An impossible edge does not record whether it was counted as failed or skipped. Only their sum matters.
  local from_failed = math.min(group.failed, reopened)
  server.call('HSET', group_key, 'failed', format_integer(group.failed - from_failed), 'skipped',
    format_integer(math.max(0, group.skipped - (reopened - from_failed))), 'group_state', decision or 'pending')
  server.call('HDEL', group_key, 'satisfied_at', 'cancel_siblings_pending_flag', 'cancel_siblings_reason',
    'cancel_siblings_pending_members')
  server.call('SREM', 'ff:idx:' .. hash_tag(core_key) .. ':pending_cancel_groups', flow_id .. '|' .. execution_id)
end
