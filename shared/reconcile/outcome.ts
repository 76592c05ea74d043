/** Explicit results: a page of an index is processed only if each of its entries has an outcome that is `ok`. */

import type { Pipelines, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import { pairResults } from "#shared/contract/results.ts";
import { ValkeyError } from "#shared/errors.ts";
import { chunked } from "#shared/valkey/batches.ts";

/**
 * The outcome of one entry of an index. `ok` means that nothing is left to retry in this sweep. The runner needs to know
 * where the entry is now, since it pages through some indexes by position:
 *
 * - `gone`: it has left the index. (An index that is read with a scan cursor does not depend on it.)
 * - `kept`: it stays in the index, and the sweep moves past it.
 * - `unfinished`: it stays in the index, and is read and processed again. Each time, some part of its work must be done.
 */
export type Outcome =
  | { readonly ok: true; readonly entry: "gone" | "kept" | "unfinished" }
  | { readonly ok: false; readonly error: Error };

export const PROCESSED: Outcome = { ok: true, entry: "gone" };
export const KEPT: Outcome = { ok: true, entry: "kept" };
export const UNFINISHED: Outcome = { ok: true, entry: "unfinished" };

export function failed(error: Error): Outcome {
  return { ok: false, error };
}

/** The first failure, or undefined if all outcomes are `ok`. */
export function firstError(outcomes: Iterable<Outcome>): Error | undefined {
  for (const outcome of outcomes) if (!outcome.ok) return outcome.error;
  return undefined;
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

/** Entries of a part: enough for a round trip, few enough that the parts overlap. */
const PART_SIZE = 250;
/** Parts in flight. With more, the calls of all of them would precede the first send. */
const PARTS_AT_ONCE = 4;

/**
 * Processes some parts of the entries at the same time: while Valkey works on one part, the replies of another are read,
 * and completions of a third are sent. Returns one outcome per entry, in their order. After an error no other part begins;
 * waits for those in flight, and rejects with the first error.
 */
export async function inParts<T>(
  entries: readonly T[],
  process: (part: readonly T[]) => Promise<readonly Outcome[]>,
): Promise<Outcome[]> {
  const parts = [...chunked(entries, () => 1, PART_SIZE)];
  const outcomes: (readonly Outcome[])[] = [];
  const queue = parts.entries();
  let hasFailed = false;
  const lines = Array.from({ length: Math.min(PARTS_AT_ONCE, parts.length) }, async () => {
    try {
      for (const [position, part] of queue) {
        if (hasFailed) return;
        outcomes[position] = await process(part);
      }
    } catch (error) {
      hasFailed = true;
      throw error;
    }
  });
  for (const line of await Promise.allSettled(lines)) {
    if (line.status === "rejected") throw line.reason;
  }
  return outcomes.flat();
}

/** What calls of library functions need. */
export interface FunctionPorts {
  readonly valkey: Pipelines;
  /** Loads the Valkey library where it is missing. */
  readonly ensureLibrary: () => Promise<void>;
}

/**
 * As `pipelineEach`, for calls of library functions. Loads the library if a function is missing, and repeats the calls that
 * it was missing for. Rejects with the error of `ensureLibrary`.
 */
export async function callEach<T>(
  { valkey, ensureLibrary }: FunctionPorts,
  items: readonly T[],
  commandOf: (item: T) => ValkeyCommand,
): Promise<{ readonly item: T; readonly result: ValkeyResult }[]> {
  const results = await pipelineEach(valkey, items, commandOf);
  const missing = results.filter(({ result }) => isFunctionMissing(result));
  if (missing.length === 0) return results;
  await ensureLibrary();
  const repeated = await pipelineEach(
    valkey,
    missing.map(({ item }) => item),
    commandOf,
  );
  const replacements = new Map(missing.map((call, position) => [call, repeated[position]]));
  return results.map((call) => replacements.get(call) ?? call);
}

function isFunctionMissing(result: ValkeyResult): boolean {
  return !result.ok && result.error.message.startsWith("ERR Function not found");
}
