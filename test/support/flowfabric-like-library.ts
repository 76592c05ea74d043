import { librarySource } from "#lua/library.ts";

/**
 * A fake of FlowFabric's library, made of Sluice's source: the versions, no `sluice_revision` but another function, and
 * above all how the 14-KEYS `ff_resolve_dependency` treats a call with 11 keys, as the contract describes it (section 7):
 * it accepts the call and takes every group for `all_of`.
 */
export function flowFabricLikeLibrary(version: 15 | 34): string {
  return librarySource(version === 15 ? 11 : 14)
    .replace(/local LIBRARY_VERSION = '\d+'/, `local LIBRARY_VERSION = '${version}'`)
    .replace(/error\(string\.format\('%s takes %d KEYS, not %d'[^\n]*/, "return")
    .replace("function_name = 'sluice_revision'", "function_name = 'ff_of_the_original'")
    .replace(/description = 'Sluice library, revision '[^\n]*\n/, "")
    .replaceAll("fetch_group(keys[12])", "(keys[12] and fetch_group(keys[12]))");
}
