-- Retry policies. Defaults for missing members:
local DEFAULT_DELAY_MS = 1000
local DEFAULT_MULTIPLIER = 2
local DEFAULT_MAX_DELAY_MS = 60000

-- Returns a number of at least 0, the default if it is missing, or nil if it is malformed.
local function policy_number(value, default)
  if value == nil or value == cjson.null then
    return default
  end
  if type(value) == 'number' and value >= 0 then
    return value
  end
  return nil
end

-- Returns the milliseconds until retry number `retry_count` + 1, or nil if the backoff is malformed. A backoff without
-- a type is fixed. max_delay_ms applies to the exponential type only.
local function backoff_delay(backoff, retry_count)
  if backoff == nil or backoff == cjson.null then
    return DEFAULT_DELAY_MS
  end
  if type(backoff) ~= 'table' then
    return nil
  end
  if backoff.type == nil or backoff.type == 'fixed' then
    return policy_number(backoff.delay_ms, DEFAULT_DELAY_MS)
  end
  local initial = policy_number(backoff.initial_delay_ms, DEFAULT_DELAY_MS)
  local multiplier = policy_number(backoff.multiplier, DEFAULT_MULTIPLIER)
  local maximum = policy_number(backoff.max_delay_ms, DEFAULT_MAX_DELAY_MS)
  if backoff.type ~= 'exponential' or not (initial and multiplier and maximum) then
    return nil
  end
  if initial == 0 then
    return 0
  end
  return math.min(initial * multiplier ^ retry_count, maximum)
end

-- Returns the delay before the next attempt in milliseconds, or nil if no retry is left or the policy is malformed.
local function retry_delay(policy_json, retry_count)
  local policy = policy_json ~= '' and decode_json(policy_json)
  if type(policy) ~= 'table' then
    return nil
  end
  local delay = backoff_delay(policy.backoff, retry_count)
  if not delay or retry_count >= (policy_number(policy.max_retries, 0) or 0) then
    return nil
  end
  return math.floor(delay)
end
