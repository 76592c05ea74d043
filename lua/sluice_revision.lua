-- sluice_revision: marks the library as Sluice's and returns its revision. Read-only. FlowFabric does not have it.
--
-- KEYS      none
-- ARGV      none
-- Reply     the revision as a plain string, without an envelope
-- Refusals  none
-- Publishes nothing.
-- Cost      O(1), no commands.
--
-- Loaders read the description in the reply of FUNCTION LIST (shared/valkey/library.ts). The mark is a function and not a
-- comment because of release 0.1: it treats a library with an unknown function as another vendor's, and therefore never
-- replaces this one. A comment would not stop it.

server.register_function{
  function_name = 'sluice_revision',
  description = 'Sluice library, revision ' .. LIBRARY_REVISION .. ', ' .. LIBRARY_EDITION .. ' KEYS',
  callback = function()
    return LIBRARY_REVISION
  end,
  flags = { 'no-writes' },
}
