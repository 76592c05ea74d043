/**
 * The revision of the Lua library. Increase it with every change of the library's text: a loader never replaces a library
 * of the same or a higher revision. Release 0.1 has no revision and counts as 0.
 */
export const LIBRARY_REVISION = 1;

/** SHA-256 of both editions' text at this revision. A test fails if the text changes and this does not. */
export const LIBRARY_HASH = "d9de1bb2f1bff1dd929a9db8fd3dc61c26da6699a25f14a090e877bb9aa0b3d4";
