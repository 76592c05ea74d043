/** Lets the reconciler delete ended flows, and names what stays in Valkey. */

import { command } from "#shared/contract/command.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";
import type { FlowUnderTest } from "#test/faults/flow-under-test.ts";
import { retentionSweeper } from "#test/faults/reconcilers.ts";
import type { TestBed } from "#test/faults/test-bed.ts";

const MAX_SWEEPS = 30;
/** What a deployment keeps: settings, the reconciler's own keys, the lanes, and the marks of deleted flows. */
const KEPT =
  /^ff:(?:config:|reconcile:|idx:lanes$|idx:\{fp:\d+\}:lane_claims$|flow:\{fp:\d+\}:[^:]+:purged$)/;

/** Ends the retention of all flows, as if its time had passed. Returns the keys that the reconciler leaves behind. */
export async function purge(bed: TestBed, flows: readonly FlowUnderTest[]): Promise<string[]> {
  const { valkey } = bed;
  const ends = flows.map(({ flowKeys: { id, partition }, index }) =>
    command(partition, "zadd", index.flowsEnded, "XX", 1, id),
  );
  for (const result of await valkey.pipelined(ends)) valueOrThrow(result);
  for (let sweep = 0; sweep < MAX_SWEEPS; sweep += 1) {
    bed.note(`retention: ${JSON.stringify(await retentionSweeper(bed).invoke({}))}`);
    const left = await valkey.pipelined(
      flows.map(({ flowKeys: { core, partition } }) => command(partition, "exists", core)),
    );
    if (left.every((result) => valueOrThrow(result) === 0)) break;
  }
  return (await keysOf(bed)).filter((key) => !KEPT.test(key));
}

/** The bytes of the data set, without connections and buffers. */
export async function dataBytes({ valkey }: TestBed): Promise<number> {
  const [, bytes = ""] =
    /^used_memory_dataset:(\d+)/m.exec(String(await valkey.call("info", "memory"))) ?? [];
  return Number(bytes);
}

async function keysOf({ valkey }: TestBed): Promise<string[]> {
  const keys = new Set<string>();
  let cursor = "0";
  do {
    const reply = await valkey.call("scan", cursor, "COUNT", 5_000);
    const [next, names]: readonly unknown[] = Array.isArray(reply) ? reply : [];
    if (!Array.isArray(names)) throw new Error("SCAN returned a malformed reply");
    for (const name of names) keys.add(String(name));
    cursor = String(next);
  } while (cursor !== "0");
  return [...keys];
}
