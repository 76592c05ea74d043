-- ff_resolve_dependency: tells a child how one of its upstreams ended. Safe to repeat. Edition of 11 KEYS.
--
-- KEYS   1 core, 2 deps:meta, 3 deps:unresolved, 4 dep, 5 eligible, 6 terminal, 7 blocked:dependencies,
--        8 attempt, 9 stream meta, 10 payload (all the child's), 11 the upstream's result, under the child's tag
-- ARGV   1 edge_id, 2 upstream_outcome (success, or anything else), 3 now_ms (used)
-- Reply  OK, satisfied, "data_injected" | ""
--        OK, impossible, "child_skipped" | ""
--        OK, already_resolved
--        refused: invalid_dependency; invalid_input, now_ms
-- Publishes nothing: a skipped child's own children are the caller's to tell (see version.lua).

local function ff_resolve_dependency(keys, args)
  check_arity('ff_resolve_dependency', keys, 11, args, 3)
  local data_passing_ref, reply = fetch_unresolved(keys, args)
  if not data_passing_ref then
    return reply
  end
  local state, detail = resolve_required(keys, args, data_passing_ref)
  return ok(state, detail)
end

server.register_function{ function_name = 'ff_resolve_dependency', callback = ff_resolve_dependency }
