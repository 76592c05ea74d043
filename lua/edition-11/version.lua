-- Versions 5 to 15 belong to the 11-KEYS edition. FlowFabric's version 5 does not publish skipped children, this one does.
-- A published event is lost if no client is subscribed: the caller of ff_resolve_dependency continues the cascade itself.
local LIBRARY_VERSION = '5'

-- The edition as FUNCTION LIST shows it, in the description of sluice_revision.
local LIBRARY_EDITION = '11'
