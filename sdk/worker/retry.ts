import { setTimeout as sleep } from "node:timers/promises";
import type { Pipelines, ValkeyCommand } from "#shared/contract/command.ts";
import { pairResults } from "#shared/contract/results.ts";
import { SluiceError } from "#shared/errors.ts";
import { noResult, valueOrThrow } from "#shared/valkey/batches.ts";

type Result = { readonly ok: true } | { readonly ok: false; readonly error: Error };

/**
 * Delays before the retries of a Valkey call, in milliseconds: about 26 s in all. That covers a typical failover, and
 * is well below the default lease of 60 s.
 */
export const DEFAULT_RETRY_DELAYS_MS: readonly number[] = [
  100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000, 5_000,
];

/**
 * Runs `attempt` for all items, then again for those that failed, with a delay of `delaysMs` before each retry.
 * Returns each item with its result, in order. An item for which `attempt` returns no result gets `missing()`, a failure.
 * An error that is not retryable is final.
 */
export async function retryFailed<Item, R extends Result>(
  items: readonly Item[],
  delaysMs: readonly number[],
  attempt: (items: readonly Item[], isRetry: boolean) => Promise<readonly (R | undefined)[]>,
  missing: () => R,
): Promise<{ readonly item: Item; readonly result: R }[]> {
  if (items.length === 0) return [];
  let results = pairResults(items, await attempt(items, false), missing);
  for (const delayMs of delaysMs) {
    const failed = results.filter(({ result }) => !result.ok && isRetryable(result.error));
    if (failed.length === 0) break;
    await sleep(withJitter(delayMs));
    const open = failed.map(({ item }) => item);
    const retried = pairResults(failed, await attempt(open, true), missing);
    const latest = new Map(retried.map(({ item, result }) => [item, result]));
    results = results.map((pair) => ({ item: pair.item, result: latest.get(pair) ?? pair.result }));
  }
  return results;
}

/** Reads values, with retries. Values are in the commands' order. Throws the last ValkeyError of a failed read. */
export async function readWithRetries(
  valkey: Pipelines,
  commands: readonly ValkeyCommand[],
  delaysMs: readonly number[],
): Promise<unknown[]> {
  const results = await retryFailed(commands, delaysMs, (open) => valkey.pipelined(open), noResult);
  return results.map(({ result }) => valueOrThrow(result));
}

function isRetryable(error: Error): boolean {
  return !(error instanceof SluiceError) || error.retryable;
}

/** Spreads the retries of workers that failed at the same moment. */
function withJitter(delayMs: number): number {
  return delayMs * (0.75 + Math.random() / 2);
}
