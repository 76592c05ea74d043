/**
 * The revision of the Lua library. Increase it with every change of the library's text: a loader never replaces a library
 * of the same or a higher revision. Release 0.1 has no revision and counts as 0.
 */
export const LIBRARY_REVISION = 1;

/** SHA-256 of both editions' text at this revision. A test fails if the text changes and this does not. */
export const LIBRARY_HASH = "72d933ae0628cb5c0e9a58da8fed3eb81d519ea16f72a062840cd53ef6d8e0e9";
