-- Reading records, arguments and numbers. A missing field, an empty one and nil mean the same: ''.

local function text(value)
  if value == nil or value == false then
    return ''
  end
  return value
end

-- The named fields of a hash, '' where missing; nil when the hash has none of them.
local function fetch(key, ...)
  local values = server.call('HMGET', key, ...)
  local record, found = {}, false
  for position, name in ipairs({ ... }) do
    found = found or values[position] ~= false
    record[name] = text(values[position])
  end
  return found and record or nil
end

-- A whole number as decimal digits: tostring would write 1.7e+12.
local function whole(number)
  return string.format('%.0f', number)
end

-- A count that a record holds; 0 where there is none.
local function count(value)
  return tonumber(text(value)) or 0
end

-- A number of milliseconds that an argument gives, or nil where it is none. '' gives nil as well.
local function milliseconds(argument)
  local digits = text(argument)
  if #digits > 15 or not string.find(digits, '^%d+$') then
    return nil
  end
  return tonumber(digits)
end

-- Whether an optional argument of milliseconds is neither absent nor a number.
local function is_malformed(argument)
  return text(argument) ~= '' and milliseconds(argument) == nil
end

-- The server's time in milliseconds since the epoch.
local function server_now()
  local time = server.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- A decoded JSON text, or nil where it is none. JSON's null gives cjson.null.
local function decode_json(json)
  local decoded, value = pcall(cjson.decode, json)
  if not decoded then
    return nil
  end
  return value
end

-- A key beside a declared one, of the same hash tag: the last part of the name replaced.
local function sibling(key, last_part)
  return string.match(key, '^.*:') .. last_part
end
