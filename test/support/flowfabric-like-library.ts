import { librarySource } from "#lua/library.ts";

/**
 * A fake of FlowFabric's library, made of Sluice's source: the versions, the function that Sluice's library lacks, and
 * above all how the 14-KEYS `ff_resolve_dependency` treats a call with 11 keys, as the contract describes it (section 7):
 * it accepts the call and takes every group for `all_of`.
 */
export function flowFabricLikeLibrary(version: 15 | 34): string {
  const source = librarySource(version === 15 ? 11 : 14)
    .replace(/local LIBRARY_VERSION = '\d+'/, `local LIBRARY_VERSION = '${version}'`)
    .replace(/error\(string\.format\('%s takes %d KEYS, not %d'[^\n]*/, "return")
    .replaceAll("fetch_group(keys[12])", "(keys[12] and fetch_group(keys[12]))");
  return `${source}\nserver.register_function{ function_name = 'ff_of_the_original', callback = function() return {} end }\n`;
}
