-- Edge groups for the functions that both editions share. The 11-KEYS edition has no groups: every child needs all of
-- its edges, and deps:meta alone holds their state. edition-14/groups.lua documents these functions.

local APPLY_KEY_COUNT = 7

local function count_applied_edge()
  return true
end

local function fetch_group_state()
  return nil
end

local function group_state_without()
  return nil
end

local function reopen_group() end
