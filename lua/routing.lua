-- Capabilities: an execution's policy names those that a worker must have (contract, section 15).

local MAX_CAPABILITIES = 256
local MAX_CAPABILITY_BYTES = 4096

-- Returns why a required capability is malformed, or nil.
local function malformed_capability(token)
  if type(token) ~= 'string' then
    return 'non_string_token'
  end
  if token == '' then
    return 'empty_token'
  end
  if string.find(token, ',', 1, true) then
    return 'comma_in_token'
  end
  return string.find(token, '[%z\1-\32\127]') and 'control_or_whitespace' or nil
end

-- Returns the required capabilities sorted as CSV, '' for none. Returns nil and the detail of the refusal if the list is
-- malformed. JSON arrays and objects are both tables, and an empty object is taken for an empty array.
local function required_csv(list)
  if list == nil then
    return ''
  end
  if type(list) ~= 'table' then
    return nil, 'required:not_array'
  end
  local count = 0
  for key in pairs(list) do
    if type(key) ~= 'number' then
      return nil, 'required:not_array'
    end
    count = count + 1
  end
  for position = 1, count do
    local reason = malformed_capability(list[position])
    if reason then
      return nil, 'required:' .. reason
    end
  end
  if count > MAX_CAPABILITIES then
    return nil, 'required:too_many_tokens'
  end
  table.sort(list)
  local csv = table.concat(list, ',')
  if #csv > MAX_CAPABILITY_BYTES then
    return nil, 'required:too_many_bytes'
  end
  return csv
end

-- Returns the capabilities that a policy requires, as CSV. Returns nil and a refusal if the policy is malformed.
local function parse_required_capabilities(policy_json)
  if policy_json == '' then
    return ''
  end
  local policy = decode_json(policy_json)
  if type(policy) ~= 'table' then
    return nil, refuse('invalid_policy_json', 'malformed')
  end
  local routing = policy.routing_requirements
  if routing == nil then
    return ''
  end
  if type(routing) ~= 'table' then
    return nil, refuse('invalid_policy_json', 'routing_requirements:not_object')
  end
  local csv, detail = required_csv(routing.required_capabilities)
  if not csv then
    return nil, refuse('invalid_capabilities', detail)
  end
  return csv
end

-- Returns a set of the capabilities in a worker's CSV, empty ones skipped. Returns nil and a refusal if there are too
-- many.
local function parse_worker_capabilities(csv)
  if #csv > MAX_CAPABILITY_BYTES then
    return nil, refuse('invalid_capabilities', 'worker:too_many_bytes')
  end
  if csv == '' then
    return {}
  end
  local capabilities, count = {}, 0
  for token in string.gmatch(csv, '[^,]+') do
    capabilities[token] = true
    count = count + 1
  end
  if count > MAX_CAPABILITIES then
    return nil, refuse('invalid_capabilities', 'worker:too_many_tokens')
  end
  return capabilities
end

-- Returns the required capabilities that a worker lacks, sorted as CSV, '' for none.
local function missing_capabilities(required, capabilities)
  if required == '' then
    return ''
  end
  local missing = {}
  for token in string.gmatch(required, '[^,]+') do
    if not capabilities[token] then
      missing[#missing + 1] = token
    end
  end
  table.sort(missing)
  return table.concat(missing, ',')
end
