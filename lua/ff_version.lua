-- ff_version: which edition of the functions this library is.
--
-- KEYS   none
-- ARGV   none
-- Reply  the version as a plain string, no envelope

server.register_function{
  function_name = 'ff_version',
  callback = function()
    return LIBRARY_VERSION
  end,
  flags = { 'no-writes' },
}
