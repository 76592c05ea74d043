-- The reply envelope: [1, status, …] or, for a refusal, [0, code, …]. Every element after the first is a
-- string; a number in a Lua reply would arrive as an integer, which a strict decoder rejects.

local function ok(...)
  return { 1, 'OK', ... }
end

local function already_satisfied(...)
  return { 1, 'ALREADY_SATISFIED', ... }
end

local function duplicate(...)
  return { 1, 'DUPLICATE', ... }
end

-- A refusal is no error, and whoever refuses has written nothing.
local function refuse(code, ...)
  return { 0, code, ... }
end

-- Raises, before anything is read, when a caller has another edition of a function in mind.
local function check_arity(name, keys, key_count, args, arg_count)
  if #keys ~= key_count then
    error(string.format('%s takes %d KEYS, not %d', name, key_count, #keys))
  end
  if #args < arg_count then
    error(string.format('%s takes %d ARGV, not %d', name, arg_count, #args))
  end
end
