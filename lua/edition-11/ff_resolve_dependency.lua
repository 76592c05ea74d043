-- ff_resolve_dependency: applies the outcome of an upstream to one edge of a child, and releases or skips the child.
-- Idempotent. 11-KEYS edition.
--
-- KEYS      1 core, 2 deps:meta, 3 deps:unresolved, 4 dep, 5 eligible, 6 terminal, 7 blocked:dependencies,
--           8 attempt, 9 stream meta, 10 payload (all of the child), 11 the upstream's result, under the child's tag
-- ARGV      1 edge_id, 2 upstream_outcome (success, or any other outcome), 3 now_ms (used), 4 and 5 (not read; see the
--           14-KEYS edition), 6 (optional) the upstream's completed_at as the caller read it
-- Reply     OK, satisfied, "data_injected" | ""
--           OK, impossible, "child_skipped" | ""
--           OK, already_resolved
-- Refusals  invalid_dependency; invalid_input, now_ms; upstream_changed: the upstream's record has another
--           completed_at than ARGV 6, so it was replayed since the caller read it
-- Publishes for a flow member that it skips: outcome skipped on ff:dag:completions, as version 15 of this edition does.
-- Cost      O(log n) in the size of the lane's zsets, at most 15 commands; 5 for an edge that does not affect the
--           child. Passing data copies the upstream's result: O(its size).

local function ff_resolve_dependency(keys, args)
  check_arity('ff_resolve_dependency', keys, 11, args, 3)
  local data_passing_ref, upstream_or_reply = fetch_unresolved(keys, args)
  if not data_passing_ref then
    return upstream_or_reply
  end
  local state, detail = resolve_required(keys, args, data_passing_ref, upstream_or_reply)
  return ok(state, detail)
end

server.register_function{ function_name = 'ff_resolve_dependency', callback = ff_resolve_dependency }
