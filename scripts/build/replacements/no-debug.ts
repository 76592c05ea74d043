/**
 * Replaces the package `debug`. With the variable DEBUG set, iovalkey would log every command through it, passwords
 * included.
 */
export default function noDebug(): { readonly enabled: false } {
  return { enabled: false };
}
