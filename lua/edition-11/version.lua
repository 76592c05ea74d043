-- 5 to 15 is the edition of 11 KEYS. A library of version 5 does not publish the children that it skips:
-- whoever resolves an edge passes the cascade on.
local LIBRARY_VERSION = '5'
