-- sluice_finish_purge: deletes the keys of a flow whose members are all deleted, and lets its mark expire. Idempotent.
-- FlowFabric does not have it.
--
-- KEYS      1 flow core, 2 members, 3 summary, 4 tags, 5 pending_cancels, 6 purged, 7 flow_index, 8 flows_ended,
--           9 flow_ends_unsent, 10 cancel_backlog
-- ARGV      1 flow_id
-- Reply     OK, finished
--           OK, members_left, <members>   nothing is deleted
--           OK, not_begun                 the flow is not marked as purged: nothing is deleted
-- Refusals  none
-- Publishes nothing.
-- Cost      O(log n) in the size of the indexes, at most 10 commands.
--
-- The entry in flows_created goes too. Its key has no position in KEYS, and is derived from KEYS 7.

-- Longer than a message can wait in a queue and then in its dead-letter queue, 14 days each at most, unless it is replayed
-- again and again; as long as the dispatcher's own marks.
local PURGED_MARK_SECONDS = 19 * 24 * 3600

local function sluice_finish_purge(keys, args)
  check_arity('sluice_finish_purge', keys, 10, args, 1)
  local flow_key, members_key, summary_key, tags_key, pending_cancels_key, purged_key, flow_index_key, flows_ended_key,
    unsent_key, cancel_backlog_key = unpack(keys)
  local flow_id = args[1]

  if server.call('EXISTS', purged_key) == 0 then
    return ok('not_begun')
  end
  local members = server.call('SCARD', members_key)
  if members > 0 then
    return ok('members_left', format_integer(members))
  end
  server.call('UNLINK', flow_key, members_key, summary_key, tags_key, pending_cancels_key)
  server.call('SREM', flow_index_key, flow_id)
  server.call('ZREM', sibling_key(flow_index_key, 'flows_created'), flow_id)
  server.call('ZREM', cancel_backlog_key, flow_id)
  server.call('ZREM', unsent_key, flow_id)
  server.call('EXPIRE', purged_key, PURGED_MARK_SECONDS)
  server.call('ZREM', flows_ended_key, flow_id)
  return ok('finished')
end

server.register_function{ function_name = 'sluice_finish_purge', callback = sluice_finish_purge }
