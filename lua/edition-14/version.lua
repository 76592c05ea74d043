-- 26 and above is the edition of 14 KEYS. It publishes the children that it skips; whoever resolves an edge
-- passes the cascade on nevertheless, since nobody need be listening.
local LIBRARY_VERSION = '26'
