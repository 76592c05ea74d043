-- ff_set_edge_group_policy: sets how many of a child's edges must succeed. Call it before any edge is applied.
--
-- KEYS      1 flow core, 2 edgegroup
-- ARGV      1 policy_variant (all_of, any_of, quorum), 2 on_satisfied (cancel_remaining, let_run; ignored for
--           all_of), 3 k (quorum: an integer of at least 1; ignored for the others), 4 now_ms (used)
-- Reply     OK, set
--           OK, already_set: the group already has this variant and keeps its on_satisfied and k
-- Refusals  flow_purged; flow_not_found; invalid_input, <argument>; invalid_input, dependencies_applied
-- Publishes nothing.
-- Cost      O(1), at most 3 commands.
--
-- Once an edge has been applied, every call is refused, even one that would change nothing.

local VARIANTS = { all_of = true, any_of = true, quorum = true }
local ON_SATISFIED = { cancel_remaining = true, let_run = true }

-- Returns the number of successes that the group needs, as text: '' for every edge. Returns nil if k is malformed.
local function required_successes(variant, k)
  if variant == 'all_of' then
    return ''
  end
  if variant == 'any_of' then
    return '1'
  end
  return #k <= 9 and string.match(k, '^[1-9]%d*$') or nil
end

local function ff_set_edge_group_policy(keys, args)
  check_arity('ff_set_edge_group_policy', keys, 2, args, 4)
  local flow_key, group_key = unpack(keys)
  local variant, on_satisfied, k, now = unpack(args)

  local refusal = refuse_if_purged(sibling_key(flow_key, 'purged'))
  if refusal then
    return refusal
  end
  if not fetch_flow(flow_key) then
    return refuse('flow_not_found')
  end
  if not VARIANTS[variant] then
    return refuse('invalid_input', 'policy_variant')
  end
  local required = required_successes(variant, k)
  if not required then
    return refuse('invalid_input', 'k')
  end
  if variant == 'all_of' then
    on_satisfied = ''
  elseif not ON_SATISFIED[on_satisfied] then
    return refuse('invalid_input', 'on_satisfied')
  end
  if not parse_milliseconds(now) then
    return refuse('invalid_input', 'now_ms')
  end
  local group = fetch_group(group_key)
  if group and group.n > 0 then
    return refuse('invalid_input', 'dependencies_applied')
  end
  if group and group.policy_variant == variant then
    return ok('already_set')
  end

  server.call('HSET', group_key, 'policy_variant', variant, 'on_satisfied', on_satisfied, 'k', required, 'n', '0',
    'succeeded', '0', 'failed', '0', 'skipped', '0', 'group_state', 'pending', 'created_at', now)
  return ok('set')
end

server.register_function{ function_name = 'ff_set_edge_group_policy', callback = ff_set_edge_group_policy }
