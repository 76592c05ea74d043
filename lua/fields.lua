-- Reads records, arguments and numbers. A missing field, an empty field and nil are equivalent: all read as ''.

local function text_or_empty(value)
  if value == nil or value == false then
    return ''
  end
  return value
end

-- Returns the named fields of a hash, '' for a missing one, or nil if the hash has none of them.
local function fetch_fields(key, ...)
  local values = server.call('HMGET', key, ...)
  local record, found = {}, false
  for position, name in ipairs({ ... }) do
    found = found or values[position] ~= false
    record[name] = text_or_empty(values[position])
  end
  return found and record or nil
end

-- Formats an integer as decimal digits: tostring would write 1.7e+12.
local function format_integer(number)
  return string.format('%.0f', number)
end

-- Returns a field as a number, or 0 if it is missing or not a number.
local function number_or_zero(value)
  return tonumber(text_or_empty(value)) or 0
end

-- Parses an argument in milliseconds. Returns nil if it is not a number of at most 15 digits, '' included.
local function parse_milliseconds(argument)
  local digits = text_or_empty(argument)
  if #digits > 15 or not string.find(digits, '^%d+$') then
    return nil
  end
  return tonumber(digits)
end

-- Returns whether an optional argument in milliseconds is set and malformed.
local function is_invalid_milliseconds(argument)
  return text_or_empty(argument) ~= '' and parse_milliseconds(argument) == nil
end

-- Returns the server's time in milliseconds since the epoch.
local function server_now()
  local time = server.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Decodes JSON. Returns nil for malformed text, and cjson.null for JSON's null.
local function decode_json(json)
  local decoded, value = pcall(cjson.decode, json)
  if not decoded then
    return nil
  end
  return value
end

-- Returns whether a key is the placeholder ff:noop:{fp:N}, which fills an unused KEYS position. No function may read or
-- write it: release 0.1 stored ids there, and those keys may still exist.
local function is_placeholder(key)
  return string.sub(key, 1, 8) == 'ff:noop:'
end

-- Adds an execution to a zset, unless the caller passed the placeholder.
local function add_to_zset(key, score, execution_id)
  if not is_placeholder(key) then
    server.call('ZADD', key, score, execution_id)
  end
end

-- Removes an execution from a zset, unless the caller passed the placeholder.
local function remove_from_zset(key, execution_id)
  if not is_placeholder(key) then
    server.call('ZREM', key, execution_id)
  end
end

-- Derives a key from a declared one with the same hash tag by replacing the part after the last colon.
local function sibling_key(key, last_part)
  return string.match(key, '^.*:') .. last_part
end

-- Returns the hash tag of a key. All keys of a call carry the same one.
local function hash_tag(key)
  return string.match(key, '{[^}]*}')
end
