-- sluice_begin_purge: marks a flow that has ended as purged, if nothing retains it. From then on it is refused to add
-- members, to stage edges, to replay its members and to create the flow again. Idempotent. Uses the server's time.
-- FlowFabric does not have it.
--
-- KEYS      1 flow core, 2 summary, 3 flows_ended, 4 purged
-- ARGV      1 flow_id, 2 the flow's score in flows_ended, as the caller read it, 3 retained until (ms since the epoch)
-- Reply     OK, begun     now or by an earlier call
--           OK, kept      ARGV 3 has not come; it is written to the summary, for the next caller
--           OK, changed   the flow has another end or none: a member was added or replayed
-- Refusals  invalid_input, retained_until
-- Publishes nothing.
-- Cost      O(1), at most 5 commands: the counts of the summary tell that no member is open.
--
-- The mark has no expiry until sluice_finish_purge sets one: a purge that stops for long must not forget that it began.

local function sluice_begin_purge(keys, args)
  check_arity('sluice_begin_purge', keys, 4, args, 3)
  local _, summary_key, flows_ended_key, purged_key = unpack(keys)
  local flow_id, ended_at, retained_until = unpack(args)

  local retained_until_ms = parse_milliseconds(retained_until)
  if not retained_until_ms then
    return refuse('invalid_input', 'retained_until')
  end
  if server.call('EXISTS', purged_key) == 1 then
    return ok('begun')
  end
  local score = server.call('ZSCORE', flows_ended_key, flow_id)
  if not score or tonumber(score) ~= tonumber(ended_at)
    or server.call('HGET', summary_key, 'members_open') ~= '0' then
    return ok('changed')
  end
  local now_ms = server_now()
  if retained_until_ms > now_ms then
    server.call('HSET', summary_key, 'retained_until', retained_until)
    return ok('kept')
  end
  server.call('SET', purged_key, format_integer(now_ms))
  return ok('begun')
end

server.register_function{ function_name = 'sluice_begin_purge', callback = sluice_begin_purge }
