/**
 * The revision of the Lua library. Increase it with every change of the library's text: a loader never replaces a library
 * of the same or a higher revision. Release 0.1 has no revision and counts as 0.
 */
export const LIBRARY_REVISION = 1;

/** SHA-256 of both editions' text at this revision. A test fails if the text changes and this does not. */
export const LIBRARY_HASH = "7eac41cf3cd7939ce60299d70e21991b441a0c8c2449948fbd17e5d5906fb74e";
