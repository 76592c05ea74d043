/** Steps 2 to 5 for all edges of a batch: read the children, resolve the edges, publish the skipped children. */

import { pairResults } from "#shared/contract/results.ts";
import { type AnnouncePorts, announceReady } from "#shared/dispatch/announce-ready.ts";
import { cancelDecidedGroups } from "#shared/dispatch/cancel-groups.ts";
import {
  clearCheckpoints,
  type PassState,
  type ResumedPlan,
  resume,
  saveCheckpoints,
} from "#shared/dispatch/checkpoint.ts";
import { type ChildReadPorts, readChildren } from "#shared/dispatch/children.ts";
import { type PublishPorts, publishCascades } from "#shared/dispatch/publish-cascades.ts";
import { type ResolvePorts, resolveChildren } from "#shared/dispatch/resolve-children.ts";
import type { TimeBudget } from "#shared/dispatch/time-budget.ts";
import {
  type CompletedExecution,
  DEFERRED,
  DONE,
  type EdgeResult,
  type EdgeToResolve,
  type FanOutPlan,
  failed,
  type SkippedChild,
} from "#shared/dispatch/types.ts";
import { OutOfTimeError, PublishError } from "#shared/errors.ts";
import { chunked } from "#shared/valkey/batches.ts";

/**
 * Edges that are read and resolved together. A batch with no more edges takes four round trips. With more, the next
 * window is read while this one is resolved, and memory stays bounded.
 */
const WINDOW = 2_500;
/**
 * Edges of a window that share one pipeline. Several chunks are in flight at once: the server works on one while this
 * process decodes the replies of another.
 */
const CHUNK = 256;
/** A window begins only if the remaining time is longer than this many of the slowest windows so far. */
const RESERVED_WINDOWS = 2;
/** Round trips from the start of the first window to the last resolve: edges, children, calls. */
const ROUND_TRIPS_TO_RESOLVE = 3;

/** What resolving the edges of a batch needs. */
export interface FanOutPorts extends ResolvePorts, ChildReadPorts, PublishPorts, AnnouncePorts {
  /** Edges that are read and resolved together. Default: 2,500. */
  readonly window?: number;
}

/** The result of each edge. */
export type EdgeResults = ReadonlyMap<EdgeToResolve, EdgeResult>;

/**
 * Steps 2 to 5 for all plans, window by window. The edges before a checkpoint count as done: an earlier delivery resolved
 * them in the same pass. If one of them failed there, the first of them counts as failed.
 */
export async function fanOut(
  ports: FanOutPorts,
  budget: TimeBudget,
  plans: readonly FanOutPlan[],
): Promise<EdgeResults> {
  const { window = WINDOW } = ports;
  const short = plans.filter(({ edges }) => edges.length <= window);
  const long = plans.filter(({ edges }) => edges.length > window);
  const resumed = await resume(ports, long);
  const results = await resolveWindows(ports, budget, [...short, ...resumed], resumed, window);
  for (const { item, result } of pairResults(long, resumed, (plan) => ({ ...plan, hasFailures: false }))) {
    const due = new Set(result.edges);
    const [first, ...others] = item.edges.filter((edge) => !due.has(edge));
    if (first !== undefined) results.set(first, result.hasFailures ? FAILED_BEFORE : DONE);
    for (const edge of others) results.set(edge, DONE);
  }
  // A checkpoint belongs to one pass over the edges. The pass is over when no edge was deferred, even if some failed: a
  // later pass must reach the edges before the checkpoint too, since their children may have been replayed.
  const isOver = ({ edges }: FanOutPlan): boolean =>
    edges.every((edge) => (results.get(edge) ?? DEFERRED).kind !== "deferred");
  await clearCheckpoints(ports, resumed.filter(isOver));
  return results;
}

const FAILED_BEFORE = failed(
  new OutOfTimeError(
    "an earlier delivery ran out of time after an edge had failed: the next delivery starts from the first edge",
  ),
);

/** Resolves the edges in windows: the next one is read while the one before is resolved and published. */
async function resolveWindows(
  ports: FanOutPorts,
  budget: TimeBudget,
  plans: readonly FanOutPlan[],
  long: readonly ResumedPlan[],
  size: number,
): Promise<Map<EdgeToResolve, EdgeResult>> {
  const edges = plans.flatMap((plan) => plan.edges);
  const results = new Map<EdgeToResolve, EdgeResult>();
  const states = new Map<CompletedExecution, PassState>();
  const record = (edge: EdgeToResolve, result: EdgeResult): void => {
    results.set(edge, result);
    if (result.kind === "done" || result.kind === "unreadable") return;
    const isDeferred = result.kind === "deferred" || states.get(edge.execution) === "deferred";
    states.set(edge.execution, isDeferred ? "deferred" : "failed");
  };
  let slowestWindowMs = 0;
  const hasTime = (): boolean =>
    budget.hasTimeFor(ROUND_TRIPS_TO_RESOLVE) &&
    ports.now() + RESERVED_WINDOWS * slowestWindowMs < ports.deadlineMs;
  let inFlight: Promise<void> = Promise.resolve();
  for (let start = 0; start < edges.length; start += size) {
    const window = edges.slice(start, start + size);
    if (!hasTime()) {
      await inFlight;
      for (const edge of edges.slice(start)) record(edge, DEFERRED);
      return results;
    }
    const chunks = [...chunked(window, () => 1, CHUNK)].map((chunk) => readChildren(ports, chunk));
    if (start > 0) {
      await Promise.all([...chunks, inFlight]);
      if (!hasTime()) {
        for (const edge of edges.slice(start)) record(edge, DEFERRED);
        return results;
      }
    }
    const begunMs = ports.now();
    inFlight = resolveWindow(ports, chunks).then(async (resolved) => {
      for (const { edge, result } of resolved) record(edge, result);
      await saveCheckpoints(ports, long, window, (execution) => states.get(execution) ?? "successful");
      slowestWindowMs = Math.max(slowestWindowMs, ports.now() - begunMs);
    });
  }
  await inFlight;
  return results;
}

function notSent({ cause }: Pick<SkippedChild, "cause">): EdgeResult {
  return failed(new PublishError(`${cause.child.id} was neither published nor announced`));
}

/** Steps 4 and 5 for one window, and the siblings of the groups that it decided: one final result per edge. */
async function resolveWindow(
  ports: FanOutPorts,
  chunks: Parameters<typeof resolveChildren>[1],
): Promise<{ readonly edge: EdgeToResolve; readonly result: EdgeResult }[]> {
  const { edges, mayHaveSiblings } = await resolveChildren(ports, chunks);
  const skipped = edges.flatMap((one) => ("skipped" in one ? [one.skipped] : []));
  const ready = edges.flatMap((one) => ("ready" in one ? [one.ready] : []));
  const [published, announced] = await Promise.all([
    publishCascades(ports, skipped),
    announceReady(ports, ready),
    cancelDecidedGroups(ports, mayHaveSiblings),
  ]);
  return [
    ...edges.filter((one) => "result" in one),
    ...[...pairResults(skipped, published, notSent), ...pairResults(ready, announced, notSent)].map(
      ({ item, result }) => ({ edge: item.cause.edge, result }),
    ),
  ];
}
