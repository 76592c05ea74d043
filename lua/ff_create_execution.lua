-- ff_create_execution: creates an execution, either eligible now or delayed. Uses the server's time.
--
-- KEYS      1 core, 2 payload, 3 policy, 4 tags, 5 the lane's eligible or delayed zset, 6 idempotency key,
--           7 execution_deadline, 8 all_executions (6 and 7 may be noop)
-- ARGV      1 execution_id, 2 namespace, 3 lane_id, 4 execution_kind, 5 priority (0 to 9000, clamped),
--           6 creator_identity, 7 policy_json (an object), 8 input_payload, 9 delay_until (ms since the epoch), 10 dedup_ttl_ms
--           (ignored with the noop key), 11 tags_json (an object of strings), 12 execution_deadline_at (ms since the epoch), 13 partition_id;
--           7 to 12 may be empty
-- Reply     OK, execution_id, public_state
--           DUPLICATE, <id stored under the idempotency key> | <execution_id>
-- Refusals  invalid_input, priority; and for an execution that is not a duplicate: invalid_policy_json, <detail>;
--           invalid_capabilities, <detail> (routing.lua has the details); invalid_input, <argument>
-- Publishes nothing.
-- Cost      O(log n) in the size of the lane's zset, at most 10 commands plus one for each tag.
--
-- Only the server's clock decides whether delay_until lies in the future. KEYS 5 may therefore name either zset: the
-- function derives the right one from it.
--
-- Differences from FlowFabric (contract, section 6): delay_until, dedup_ttl_ms, execution_deadline_at and tags_json are
-- validated, and KEYS 5 is not trusted.

-- Returns the tags as a list of names and values, or nil if the text is not a JSON object of strings.
local function parse_tags(tags_json)
  local tags, fields = decode_json(tags_json), {}
  if type(tags) ~= 'table' then
    return nil
  end
  for name, value in pairs(tags) do
    if type(name) ~= 'string' or type(value) ~= 'string' then
      return nil
    end
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
  return fields
end

local function scheduling_key(declared, kind)
  local lane, found = string.gsub(declared, ':[^:]*$', '')
  return found == 1 and lane .. ':' .. kind or declared
end

local function ff_create_execution(keys, args)
  check_arity('ff_create_execution', keys, 8, args, 13)
  local core_key, payload_key, policy_key, tags_key, schedule, idempotency_key, deadline_key, all_key = unpack(keys)
  local execution_id, namespace, lane_id, kind, priority_text, creator, policy_json, payload, delay_until,
    dedup_ttl_ms, tags_json, deadline_at, partition_id = unpack(args)

  local priority = string.find(priority_text, '^-?%d+%.?%d*$') and tonumber(priority_text)
  if not priority then
    return refuse('invalid_input', 'priority')
  end
  local is_deduplicated = not is_placeholder(idempotency_key)
  local existing_id = is_deduplicated and server.call('GET', idempotency_key)
  if existing_id then
    return duplicate(existing_id)
  end
  if server.call('EXISTS', core_key) == 1 then
    return duplicate(execution_id)
  end
  local required_capabilities, refusal = parse_required_capabilities(policy_json)
  if not required_capabilities then
    return refusal
  end
  if is_invalid_milliseconds(delay_until) then
    return refuse('invalid_input', 'delay_until')
  end
  if is_invalid_milliseconds(dedup_ttl_ms) then
    return refuse('invalid_input', 'dedup_ttl_ms')
  end
  if is_invalid_milliseconds(deadline_at) then
    return refuse('invalid_input', 'execution_deadline_at')
  end
  local tags = tags_json == '' and {} or parse_tags(tags_json)
  if not tags then
    return refuse('invalid_input', 'tags_json')
  end

  local now_ms = server_now()
  local now = format_integer(now_ms)
  local is_delayed = (parse_milliseconds(delay_until) or 0) > now_ms
  local vector = is_delayed and delayed_state('waiting_for_delay', 'pending_first_attempt')
    or eligible_state('pending_first_attempt')
  priority = clamped_priority(priority)
  local fields = {
    -- Fields that resolving and dispatching read come first: see transition. Fields without a value are not stored.
    'execution_id', execution_id, 'created_at', now, 'priority', format_integer(priority), 'lane_id', lane_id,
    'namespace', namespace, 'execution_kind', kind, 'partition_id', partition_id, 'creator_identity', creator,
    'current_lane', lane_id, 'current_lease_epoch', '0', 'total_attempt_count', '0', 'retry_count', '0',
    'replay_count', '0', 'lease_reclaim_count', '0',
  }
  local function add_unless_empty(name, value)
    if value ~= '' then
      fields[#fields + 1] = name
      fields[#fields + 1] = value
    end
  end
  add_unless_empty('required_capabilities', required_capabilities)
  add_unless_empty('delay_until', is_delayed and delay_until or '')
  transition(core_key, vector, now, unpack(fields))
  if payload ~= '' then
    server.call('SET', payload_key, payload)
  end
  if policy_json ~= '' then
    server.call('SET', policy_key, policy_json)
  end
  for position = 1, #tags, 2 do
    server.call('HSET', tags_key, tags[position], tags[position + 1])
  end
  if is_delayed then
    server.call('ZADD', scheduling_key(schedule, 'delayed'), delay_until, execution_id)
  else
    local score = eligible_score({ created_at = now, priority = priority })
    server.call('ZADD', scheduling_key(schedule, 'eligible'), score, execution_id)
  end
  server.call('SADD', all_key, execution_id)
  if deadline_at ~= '' then
    add_to_zset(deadline_key, deadline_at, execution_id)
  end
  if is_deduplicated and (parse_milliseconds(dedup_ttl_ms) or 0) > 0 then
    server.call('SET', idempotency_key, execution_id, 'PX', dedup_ttl_ms)
  end
  return ok(execution_id, vector.public_state)
end

server.register_function{ function_name = 'ff_create_execution', callback = ff_create_execution }
