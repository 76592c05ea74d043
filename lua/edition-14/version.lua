-- Versions from 26 belong to the 14-KEYS edition. It publishes skipped children, but a published event is lost if no
-- client is subscribed: the caller of ff_resolve_dependency continues the cascade all the same.
local LIBRARY_VERSION = '26'

-- The edition as FUNCTION LIST shows it, in the description of sluice_revision.
local LIBRARY_EDITION = '14'
