-- The reply envelope: [1, status, …], or [0, code, …] for a refusal. Every element after the first is a string: a
-- Lua number would arrive as an integer, which a strict decoder rejects.

local function ok(...)
  return { 1, 'OK', ... }
end

local function already_satisfied(...)
  return { 1, 'ALREADY_SATISFIED', ... }
end

local function duplicate(...)
  return { 1, 'DUPLICATE', ... }
end

-- A refusal is a regular reply, not an error. A function refuses before it writes anything.
local function refuse(code, ...)
  return { 0, code, ... }
end

-- Raises an error before anything is read if KEYS or ARGV are missing. Callers may pass more than this edition reads:
-- one call shape serves every edition and version.
local function check_arity(name, keys, key_count, args, arg_count)
  if #keys < key_count then
    error(string.format('%s takes %d KEYS, not %d', name, key_count, #keys))
  end
  if #args < arg_count then
    error(string.format('%s takes %d ARGV, not %d', name, arg_count, #args))
  end
end
