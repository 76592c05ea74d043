-- ff_version: returns the library's version, which tells a caller its edition (contract, section 7). Read-only.
--
-- KEYS      none
-- ARGV      none
-- Reply     the version as a plain string, without an envelope
-- Refusals  none
-- Publishes nothing.
-- Cost      O(1), no commands.

server.register_function{
  function_name = 'ff_version',
  callback = function()
    return LIBRARY_VERSION
  end,
  flags = { 'no-writes' },
}
