/**
 * The reconciler: finds completions that dispatch missed and sends them to the queue again. It resolves no edge itself,
 * so that only dispatch changes children.
 *
 * A sweep reads every index of blocked executions to its end. It may take several runs (invocations); each run resumes
 * at the checkpoint of the one before. A run reads first, and sends at its end. It may die at any point: the next run
 * repeats everything after the last checkpoint, and the next sweep finds what was read and not sent. A completion that is
 * sent twice changes nothing, and a second promotion is refused.
 */

import { pairResults } from "#shared/contract/results.ts";
import { messageOf, ValkeyError } from "#shared/errors.ts";
import {
  type Checkpoint,
  formatCheckpoint,
  newSweep,
  parseCheckpoint,
  SweepProgress,
} from "#shared/reconcile/checkpoint.ts";
import { type AcquiredLease, acquireLease, NO_LEASE } from "#shared/reconcile/lease.ts";
import { failed, firstFailure, type Outcome, PROCESSED } from "#shared/reconcile/outcome.ts";
import { promoteUnblocked } from "#shared/reconcile/promote.ts";
import { type BlockedExecution, type BlockedRead, readBlocked } from "#shared/reconcile/read-blocked.ts";
import { CompletionResender } from "#shared/reconcile/resend.ts";
import {
  NO_COUNTS,
  type ReconcilerPorts,
  type RunCounts,
  type StopReason,
  SweepRun,
  SweepStopped,
} from "#shared/reconcile/run.ts";
import {
  candidatesOf,
  type IndexPage,
  PrefetchedPages,
  type ReadPage,
  readPages,
  readRecordedLanes,
} from "#shared/reconcile/scan.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { chunked } from "#shared/valkey/batches.ts";
import { isUnavailable } from "#shared/valkey/client.ts";

/** Indexes that are open at once. One round trip reads a page of each, and all these pages are in memory. */
const OPEN_INDEXES = 1_024;
/** Executions that are processed together. */
const EXECUTIONS_PER_BATCH = 250;

export interface SweepReport extends Readonly<RunCounts> {
  /**
   * `complete`: the sweep is over. `incomplete`: the sweep is over, but some indexes could not be read or processed, or
   * some completions could not be sent; the next sweep retries them. `busy`: another run holds the lease, and this one did nothing. `out_of_time`, `lease_lost`:
   * the run stopped, and the next run resumes the sweep at the checkpoint.
   */
  readonly state: "complete" | "incomplete" | "busy" | StopReason;
  /** Indexes that could not be read or processed. */
  readonly unread: number;
}

/**
 * Sweeps until the end of the sweep or the deadline. Rejects if the lease cannot be acquired, renewed or released, or if
 * the recorded lanes cannot be read. Valkey is then unavailable, and the lease expires by itself. In a cluster where only
 * the node of the lease or of the lanes is unavailable, the other nodes are swept without it.
 */
export async function sweep(ports: ReconcilerPorts): Promise<SweepReport> {
  const { valkey, partitions, telemetry } = ports;
  // One round trip reads all that is always needed and what is probably needed. An idle deployment needs no other read.
  const likelyScope = { lanes: union(ports.lanes, ports.likelyLanes), partitions };
  const [[lease, lanes], pages] = await Promise.all([
    Promise.allSettled([acquireLease(valkey), readRecordedLanes(valkey)]),
    readPages(ports, new SweepProgress(likelyScope, newSweep(0)).next(OPEN_INDEXES)),
  ]);
  const acquired = unlessUnavailable(lease, pages, (reason) => {
    telemetry.warn("the node with the reconciler's lease is unavailable: sweeping without a lease", {
      reason,
    });
    return { lease: NO_LEASE, checkpoint: "", serverNowMs: ports.now() };
  });
  const recorded = unlessUnavailable(lanes, pages, (reason) => {
    telemetry.warn("the node with the recorded lanes is unavailable: using the lanes read last", { reason });
    return { lanes: ports.likelyLanes, errors: [] };
  });
  if (acquired === undefined) {
    telemetry.info("reconciler already running, nothing done", {});
    return { state: "busy", unread: 0, ...NO_COUNTS };
  }
  const scope = { lanes: union(ports.lanes, recorded.lanes), partitions };
  const progress = new SweepProgress(scope, checkpointOf(ports, acquired));
  const run = new SweepRun(ports, progress, acquired.lease, acquired.serverNowMs);
  for (const reason of recorded.errors)
    run.reportUnreadable("recorded lane skipped: invalid name", { reason });
  const resender = new CompletionResender(run);
  const prefetched = new PrefetchedPages(acquired.checkpoint === "" ? pages : []);
  let stopReason = await stopReasonOf(() => sweepIndexes(run, resender, prefetched));
  let unsent = 0;
  if (stopReason !== "lease_lost") {
    const stopped = await stopReasonOf(async () => {
      unsent = await resender.send();
    });
    stopReason = stopped ?? stopReason;
  }
  return endRun(run, acquired, stopReason, unsent);
}

/** Returns the reply, or a substitute if its node is unavailable while other nodes reply. Otherwise throws its error. */
function unlessUnavailable<T>(
  reply: PromiseSettledResult<T>,
  pages: readonly IndexPage[],
  substitute: (reason: string) => T,
): T {
  if (reply.status === "fulfilled") return reply.value;
  if (!isUnavailable(reply.reason) || !pages.some(({ ok }) => ok)) throw reply.reason;
  return substitute(messageOf(reply.reason));
}

function union<T>(...lists: readonly (readonly T[])[]): T[] {
  return [...new Set(lists.flat())];
}

function checkpointOf({ partitions, telemetry }: ReconcilerPorts, acquired: AcquiredLease): Checkpoint {
  if (acquired.checkpoint === "") return newSweep(acquired.serverNowMs);
  const checkpoint = parseCheckpoint(acquired.checkpoint, partitions);
  if (checkpoint !== undefined) return checkpoint;
  telemetry.warn("invalid checkpoint, starting a new sweep", {
    checkpoint: acquired.checkpoint.slice(0, 200),
  });
  return newSweep(acquired.serverNowMs);
}

/** Undefined if the work was not stopped. */
async function stopReasonOf(work: () => Promise<void>): Promise<StopReason | undefined> {
  try {
    await work();
    return undefined;
  } catch (error) {
    if (error instanceof SweepStopped) return error.reason;
    throw error;
  }
}

const NOTHING_PREFETCHED = new PrefetchedPages([]);

async function sweepIndexes(
  run: SweepRun,
  resender: CompletionResender,
  prefetched: PrefetchedPages,
): Promise<void> {
  const { progress, ports } = run;
  let available = prefetched;
  for (;;) {
    const indexes = progress.next(OPEN_INDEXES);
    if (indexes.length === 0) return;
    await run.beginStep();
    const pages = await available.read(ports, indexes);
    available = NOTHING_PREFETCHED;
    const readable = pages.filter((page) => page.ok);
    await failUnreadPages(run, pages);
    for (const batch of chunked(readable, ({ members }) => members.length, EXECUTIONS_PER_BATCH)) {
      await run.beginStep();
      for (const { page, outcome } of await processPages(run, resender, batch)) {
        if (outcome.ok) progress.advance(page.index, page.cursor);
        else run.failIndex(page.index, outcome.error);
      }
    }
  }
}

/** If no page could be read, Valkey itself may be unavailable. Saving the checkpoint then rejects. */
async function failUnreadPages(run: SweepRun, pages: readonly IndexPage[]): Promise<void> {
  const unread = pages.filter((page) => !page.ok);
  for (const { index, error } of unread) run.failIndex(index, error);
  if (unread.length === pages.length) await run.saveCheckpoint();
}

/** Returns one outcome per page, which is `ok` only if each execution of the page is accounted for. */
async function processPages(
  run: SweepRun,
  resender: CompletionResender,
  pages: readonly ReadPage[],
): Promise<{ readonly page: ReadPage; readonly outcome: Outcome }[]> {
  const reads = await readBlocked(
    run,
    pages.flatMap((page) => candidatesOf(run, page)),
  );
  const blocked = reads.flatMap((read) => (read.kind === "blocked" ? [read.execution] : []));
  const outcomes = await processBlocked(run, resender, blocked);
  const readsByIndex = Map.groupBy(reads, ({ candidate }) => candidate.index);
  return pages.map((page) => {
    const pageReads = readsByIndex.get(page.index) ?? [];
    return { page, outcome: firstFailure(pageReads.map((read) => entryOutcome(read, outcomes))) };
  });
}

async function processBlocked(
  run: SweepRun,
  resender: CompletionResender,
  executions: readonly BlockedExecution[],
): Promise<ReadonlyMap<BlockedExecution, Outcome>> {
  const unblocked = executions.filter(({ unresolved }) => unresolved === 0);
  const waiting = executions.filter(({ unresolved }) => unresolved !== 0);
  const promoted = await promoteUnblocked(run, unblocked);
  const resent = await resender.collectFor(waiting);
  return new Map([
    ...pairResults(unblocked, promoted, noOutcome).map(({ item, result }) => [item, result] as const),
    ...pairResults(waiting, resent, noOutcome).map(({ item, result }) => [item, result] as const),
  ]);
}

function noOutcome({ keys }: BlockedExecution): Outcome {
  return failed(new ValkeyError(`no outcome for the execution ${keys.id}`));
}

function entryOutcome(read: BlockedRead, outcomes: ReadonlyMap<BlockedExecution, Outcome>): Outcome {
  if (read.kind === "failed") return failed(read.error);
  if (read.kind === "not_blocked") return PROCESSED;
  return outcomes.get(read.execution) ?? noOutcome(read.execution);
}

async function endRun(
  run: SweepRun,
  { lease }: AcquiredLease,
  stopReason: StopReason | undefined,
  unsent: number,
): Promise<SweepReport> {
  const { progress, ports, counts } = run;
  const { checkpoint } = progress;
  const unread = checkpoint.failed.length;
  const toSave = stopReason === undefined ? "" : formatCheckpoint(checkpoint);
  const isHeld = stopReason !== "lease_lost" && (await lease.release(toSave));
  const ended = unread === 0 && unsent === 0 ? "complete" : "incomplete";
  const state = isHeld ? (stopReason ?? ended) : "lease_lost";
  run.emitMetrics(unread);
  if (state === "complete") {
    ports.telemetry.measure(METRICS.sweepDuration, Math.max(0, run.serverNowMs - progress.startedAtMs));
  }
  const report: SweepReport = { state, unread, ...counts };
  ports.telemetry.info("reconciler run ended", { ...report });
  return report;
}
