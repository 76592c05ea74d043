-- Edge groups: how many of a child's edges must succeed. One hash a child, ff:flow:T:F:edgegroup:E:
--
--   policy_variant     needs                              decided by
--   all_of, or none    every edge                         deps:meta (contract, section 6); the group counts along
--   any_of             one edge                           the group
--   quorum             k edges                            the group
--
-- n counts the edges applied, and the buckets succeeded, failed and skipped those resolved. group_state is
-- pending until the group is decided, then satisfied or impossible, and it stays that until the child is replayed.
-- deps:meta goes on counting the edges of an any_of or quorum child as unsatisfied; it says nothing about them.

local KEYS_TO_APPLY = 8

-- Nil where there is no group: each has one of its first three fields at least.
local function fetch_group(group_key)
  local values = server.call('HMGET', group_key, 'policy_variant', 'n', 'group_state', 'succeeded', 'failed',
    'skipped', 'on_satisfied', 'k')
  if not (values[1] or values[2] or values[3]) then
    return nil
  end
  return {
    policy_variant = text(values[1]),
    n = count(values[2]),
    group_state = text(values[3]),
    succeeded = count(values[4]),
    failed = count(values[5]),
    skipped = count(values[6]),
    on_satisfied = text(values[7]),
    k = text(values[8]),
  }
end

-- How many successes decide the group; nil where all edges are needed.
local function quorum_of(group)
  if group and group.policy_variant == 'any_of' then
    return 1
  end
  if group and group.policy_variant == 'quorum' then
    -- A k that was lost must not make the group satisfied by nothing.
    return math.max(1, count(group.k))
  end
  return nil
end

-- What the counts say: satisfied, impossible or pending.
local function group_verdict(group, quorum)
  if group.succeeded >= quorum then
    return 'satisfied'
  end
  return group.failed + group.skipped > group.n - quorum and 'impossible' or 'pending'
end

-- The tag that a key carries: the group of a child, and all else of its flow, carry the same one.
local function hash_tag(key)
  return string.match(key, '{[^}]*}')
end

local function group_key_of(core_key, flow_id, execution_id)
  return 'ff:flow:' .. hash_tag(core_key) .. ':' .. flow_id .. ':edgegroup:' .. execution_id
end

-- Counts one edge more in the group of KEYS 8; whether it holds up the child. An edge that comes when the group
-- is satisfied does not: the group is decided, so that edge could never let the child go again.
local function join_group(keys)
  local group_key = keys[KEYS_TO_APPLY]
  local group = fetch_group(group_key)
  if not group or group.policy_variant == '' then
    server.call('HSET', group_key, 'policy_variant', 'all_of', 'n', '1', 'succeeded', '0', 'group_state', 'pending')
    return true
  end
  server.call('HSET', group_key, 'n', whole(group.n + 1))
  return not (quorum_of(group) and group.group_state == 'satisfied')
end

-- For functions that have no place for the group in KEYS; its name is built from the core's.

-- How the edges of a child stand that does not need all of them: satisfied, impossible or pending. Nil where
-- deps:meta says it: it needs all of them, or it has none.
local function group_state_of(core_key, flow_id, execution_id)
  if flow_id == '' then
    return nil
  end
  local group = fetch_group(group_key_of(core_key, flow_id, execution_id))
  if not quorum_of(group) or group.n == 0 then
    return nil
  end
  return group.group_state
end

-- What the group of a skipped child would say without so many of its impossible edges. Impossible: it needs more
-- successes than can still come. Nil where the child needs all of its edges.
local function verdict_without(core_key, flow_id, execution_id, reopened)
  local group = fetch_group(group_key_of(core_key, flow_id, execution_id))
  local quorum = quorum_of(group)
  if not quorum then
    return nil
  end
  group.failed = group.failed - reopened
  return group_verdict(group, quorum)
end

-- Takes reopened edges out of the group's counts, and its decision back. Its upstreams are needed again: whoever
-- has not cancelled them yet must not.
local function reopen_group(core_key, flow_id, execution_id, reopened, verdict)
  local group_key = group_key_of(core_key, flow_id, execution_id)
  local group = fetch_group(group_key)
  if not group then
    return
  end
  -- An impossible edge does not say in which of the two buckets it was counted; only their sum decides.
  local from_failed = math.min(group.failed, reopened)
  server.call('HSET', group_key, 'failed', whole(group.failed - from_failed), 'skipped',
    whole(math.max(0, group.skipped - (reopened - from_failed))), 'group_state', verdict or 'pending')
  server.call('HDEL', group_key, 'satisfied_at', 'cancel_siblings_pending_flag', 'cancel_siblings_reason',
    'cancel_siblings_pending_members')
  server.call('SREM', 'ff:idx:' .. hash_tag(core_key) .. ':pending_cancel_groups', flow_id .. '|' .. execution_id)
end
