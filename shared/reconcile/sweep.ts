/**
 * The reconciler: one scheduled function with several tasks. This file runs them.
 *
 * Each task sweeps its own indexes to their end. A sweep may take several runs (invocations); each run resumes it at the
 * checkpoint of the one before, while the tasks that are done begin again. Within a run, the tasks take turns. A run may
 * die at any point: the next run repeats everything after the last checkpoint.
 */

import { command, type Pipelines } from "#shared/contract/command.ts";
import type { LaneId, Partition } from "#shared/contract/ids.ts";
import { messageOf, ProtocolError } from "#shared/errors.ts";
import { readPausedLanes } from "#shared/ready/paused-lanes.ts";
import { type Checkpoints, newSweep, parseCheckpoints, SweepProgress } from "#shared/reconcile/checkpoint.ts";
import { type RecordedLanes, readRecordedLanes } from "#shared/reconcile/lanes.ts";
import { type AcquiredLease, acquireLease, NO_LEASE } from "#shared/reconcile/lease.ts";
import { type IndexPage, PrefetchedPages, readPages } from "#shared/reconcile/paging.ts";
import { buildReport, busyReport, emitMetrics, type SweepReport } from "#shared/reconcile/report.ts";
import { type RunPorts, SweepRun, SweepStopped } from "#shared/reconcile/run.ts";
import { runInTurns } from "#shared/reconcile/schedule.ts";
import type { ReconcilerTask } from "#shared/reconcile/task.ts";
import { OPEN_INDEXES, TaskSweep } from "#shared/reconcile/task-sweep.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";
import { isUnavailable } from "#shared/valkey/client.ts";

/** First pages read by the client's clock are used if the server's clock differs by less. */
const MAX_CLOCK_DIFFERENCE_MS = 1_000;

export interface ReconcilerPorts extends RunPorts {
  /** The most time-critical first. */
  readonly tasks: readonly ReconcilerTask[];
  /** Lanes to sweep in addition to those that the deployment records. */
  readonly lanes: readonly LaneId[];
  /**
   * Lanes that the deployment probably records. The first pages of their indexes are read in the same round trip as the
   * recorded lanes. A wrong guess costs one more round trip.
   */
  readonly likelyLanes: readonly LaneId[];
  /** Acquires the lease. Undefined: that of the deployment, which lets one run work at a time. */
  readonly acquireLease?: () => Promise<AcquiredLease | undefined>;
  /** Time-critical tasks are repeated so often within a run, in milliseconds. Infinite: never. */
  readonly intervalMs: number;
}

/**
 * Runs the tasks until all sweeps have ended or the deadline. Rejects if the lease cannot be acquired, renewed or released,
 * or if the recorded lanes cannot be read. Valkey is then unavailable, and the lease expires by itself. In a cluster where
 * only the node of the lease or of the lanes is unavailable, the other nodes are swept without it. Rejects with an error
 * that a task did not handle, after the other tasks have had their turns.
 */
export async function sweep(ports: ReconcilerPorts): Promise<SweepReport> {
  const first = await readFirst(ports);
  if (first.acquired === undefined) {
    ports.telemetry.info("reconciler already running, nothing done", {});
    return busyReport();
  }
  const run = new SweepRun(ports, first.acquired.lease, first.acquired.serverNowMs, first.pausedLanes);
  const checkpoints = checkpointsOf(ports, first.acquired);
  const lanes = union(ports.lanes, first.recorded.lanes);
  const sweeps = ports.tasks.map((task) => {
    const prefetched = new PrefetchedPages(first.pages.get(task) ?? []);
    return new TaskSweep(run, task, { lanes, checkpoint: checkpoints.get(task.name), prefetched });
  });
  const [reporting] = sweeps;
  for (const reason of first.recorded.errors) {
    reporting?.run.reportUnreadable("recorded lane skipped: invalid name", { reason });
  }
  const isLost = await loses(() => runInTurns(run, sweeps, ports.intervalMs));
  const isHeld = !isLost && (await run.release());
  emitMetrics(run, sweeps, isHeld);
  const report = buildReport(sweeps, isHeld);
  ports.telemetry.info("reconciler run ended", logFields(report));
  for (const { error } of sweeps) if (error !== undefined) throw error;
  return report;
}

interface FirstReads {
  /** Undefined if another run holds the lease. */
  readonly acquired: AcquiredLease | undefined;
  readonly recorded: RecordedLanes;
  readonly pausedLanes: ReadonlySet<LaneId>;
  /** The first pages of each task. */
  readonly pages: ReadonlyMap<ReconcilerTask, readonly IndexPage[]>;
}

/** One round trip reads what is always needed and what is probably needed. An idle deployment needs no other read. */
async function readFirst(ports: ReconcilerPorts): Promise<FirstReads> {
  const { valkey, tasks, telemetry } = ports;
  const lanes = union(ports.lanes, ports.likelyLanes);
  const nowMs = ports.now();
  const indexes = tasks.flatMap((task) =>
    new SweepProgress({ families: task.families, lanes, partitions: ports.partitions }, newSweep(0))
      .next(OPEN_INDEXES)
      .map((index) => ({ task, index })),
  );
  const [[lease, recordedLanes], pausedLanes, pages] = await Promise.all([
    Promise.allSettled([ports.acquireLease?.() ?? acquireLease(valkey), readRecordedLanes(valkey)]),
    readPausedLanes(valkey, lanes).catch((error: unknown) => {
      // The workers leave a paused lane alone all the same.
      telemetry.warn("paused lanes not read: treating none as paused", { reason: messageOf(error) });
      return new Set<LaneId>();
    }),
    readPages(
      ports,
      indexes.map(({ index }) => index),
      nowMs,
    ),
  ]);
  const acquired = await unlessUnavailable(lease, pages, async (reason, partition) => {
    telemetry.warn("the node with the reconciler's lease is unavailable: sweeping without a lease", {
      reason,
    });
    return { lease: NO_LEASE, checkpoint: "", serverNowMs: await serverTime(valkey, partition) };
  });
  const recorded = await unlessUnavailable(recordedLanes, pages, async (reason) => {
    telemetry.warn("the node with the recorded lanes is unavailable: using the lanes read last", { reason });
    return { lanes: ports.likelyLanes, errors: [] };
  });
  const isOnTime = acquired && Math.abs(acquired.serverNowMs - nowMs) < MAX_CLOCK_DIFFERENCE_MS;
  const byTask = Map.groupBy(indexes.keys(), (position) => indexes[position]?.task);
  return {
    acquired,
    recorded,
    pausedLanes,
    pages: new Map(
      tasks.map((task) => [
        task,
        (byTask.get(task) ?? []).flatMap((position) => {
          const page = pages[position];
          if (page === undefined) return [];
          return page.index.family.paging === "due" && isOnTime !== true ? [] : [page];
        }),
      ]),
    ),
  };
}

/** Returns the reply, or a substitute if its node is unavailable while other nodes reply. Otherwise throws its error. */
async function unlessUnavailable<T>(
  reply: PromiseSettledResult<T>,
  pages: readonly IndexPage[],
  substitute: (reason: string, readable: Partition) => Promise<T>,
): Promise<T> {
  if (reply.status === "fulfilled") return reply.value;
  const readable = pages.find(({ ok }) => ok);
  if (!isUnavailable(reply.reason) || readable === undefined) throw reply.reason;
  return substitute(messageOf(reply.reason), readable.index.partition);
}

/** The time of the node of a partition, in milliseconds since the epoch. Throws a ValkeyError or a ProtocolError. */
async function serverTime(valkey: Pipelines, partition: Partition): Promise<number> {
  const [result] = await valkey.pipelined([command(partition, "time")]);
  const reply = valueOrThrow(result);
  const [seconds, microseconds] = Array.isArray(reply) ? reply.map(Number) : [];
  const ms = Number(seconds) * 1_000 + Math.floor(Number(microseconds) / 1_000);
  if (!Number.isSafeInteger(ms)) throw new ProtocolError("TIME did not reply with a time");
  return ms;
}

function union<T>(...lists: readonly (readonly T[])[]): T[] {
  return [...new Set(lists.flat())];
}

function checkpointsOf(
  { tasks, partitions, telemetry }: ReconcilerPorts,
  { checkpoint }: AcquiredLease,
): Checkpoints {
  if (checkpoint === "") return new Map();
  const checkpoints = parseCheckpoints(checkpoint, { tasks, partitions });
  if (checkpoints !== undefined) return checkpoints;
  telemetry.warn("invalid checkpoint, starting new sweeps", { checkpoint: checkpoint.slice(0, 200) });
  return new Map();
}

/** Whether the lease was lost. Rejects with any other error. */
async function loses(work: () => Promise<void>): Promise<boolean> {
  try {
    await work();
    return false;
  } catch (error) {
    if (error instanceof SweepStopped && error.reason === "lease_lost") return true;
    throw error;
  }
}

function logFields({ tasks, ...totals }: SweepReport): Record<string, string | number> {
  return { ...totals, tasks: JSON.stringify(tasks) };
}
