/** Explicit results: a page of an index is processed only if each of its entries has an outcome that is `ok`. */

import type { Pipelines, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import { pairResults } from "#shared/contract/results.ts";
import { ValkeyError } from "#shared/errors.ts";

/** The outcome of one execution or one page. `ok` means that nothing is left to retry. */
export type Outcome = { readonly ok: true } | { readonly ok: false; readonly error: Error };

export const PROCESSED: Outcome = { ok: true };

export function failed(error: Error): Outcome {
  return { ok: false, error };
}

/** `ok` if all outcomes are, else the first failure. */
export function firstFailure(outcomes: Iterable<Outcome>): Outcome {
  for (const outcome of outcomes) if (!outcome.ok) return outcome;
  return PROCESSED;
}

/**
 * Sends one command per item in one pipeline and returns exactly one result per item, in their order. If the pipeline
 * returns another number of results, their positions mean nothing and every command counts as failed.
 */
export async function pipelineEach<T>(
  valkey: Pipelines,
  items: readonly T[],
  commandOf: (item: T) => ValkeyCommand,
): Promise<{ readonly item: T; readonly result: ValkeyResult }[]> {
  if (items.length === 0) return [];
  const results = await valkey.pipelined(items.map(commandOf));
  return pairResults(items, results.length === items.length ? results : [], () => ({
    ok: false,
    error: new ValkeyError(`the pipeline returned ${results.length} results for ${items.length} commands`),
  }));
}
