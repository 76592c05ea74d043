/**
 * Pairs each item of a batch with its result, in the items' order. An item without a result gets `missing(item)`, which
 * should be a failure: a batch call that returns too few results must never count as success.
 *
 * @example
 * for (const { item, result } of pairResults(edges, await valkey.pipelined(commands), noResult)) { … }
 */
export function pairResults<T, R>(
  items: readonly T[],
  results: readonly (R | undefined)[],
  missing: (item: T) => R,
): { readonly item: T; readonly result: R }[] {
  return items.map((item, position) => ({ item, result: results[position] ?? missing(item) }));
}
