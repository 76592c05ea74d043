/**
 * For `debug`, by which iovalkey tells every command where the variable DEBUG says so: a password as well, and into the
 * function's log.
 */
export default function noDebug(): { readonly enabled: false } {
  return { enabled: false };
}
