-- ff_update_progress: records how far a running attempt has come. Uses the server's time.
--
-- KEYS      1 core
-- ARGV      1 execution_id, 2 lease_id, 3 lease_epoch, 4 percentage (0 to 100), 5 message (empty: the last one stays)
-- Reply     OK
-- Refusals  invalid_input, percentage; execution_not_found; execution_not_active, <outcome>, <epoch>; lease_revoked;
--           lease_expired (the record is not marked); stale_lease
-- Publishes nothing.
-- Cost      O(1), 2 commands.

local function ff_update_progress(keys, args)
  check_arity('ff_update_progress', keys, 1, args, 5)
  local core_key = keys[1]
  local _, lease_id, lease_epoch, percentage, message = unpack(args)

  local percent = tonumber(percentage)
  if not percent or not (percent >= 0 and percent <= 100) then
    return refuse('invalid_input', 'percentage')
  end
  local core = fetch_owned_execution(core_key)
  local now_ms = server_now()
  local refusal = refuse_unless_owned(core, lease_id, lease_epoch, core and core.current_attempt_id, now_ms)
  if refusal then
    return refusal
  end

  local now = format_integer(now_ms)
  local fields = { 'progress_pct', percentage, 'progress_updated_at', now, 'last_mutation_at', now }
  if message ~= '' then
    fields[#fields + 1] = 'progress_message'
    fields[#fields + 1] = message
  end
  server.call('HSET', core_key, unpack(fields))
  return ok()
end

server.register_function{ function_name = 'ff_update_progress', callback = ff_update_progress }
