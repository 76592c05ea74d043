/** What a run of the reconciler returns, logs and emits as metrics. */

import type { StopReason, SweepRun } from "#shared/reconcile/run.ts";
import type { TaskName } from "#shared/reconcile/task-names.ts";
import type { TaskSweep } from "#shared/reconcile/task-sweep.ts";
import { METRICS, type MetricName } from "#shared/runtime/telemetry.ts";

export interface TaskReport {
  /** As the state of the run, for the last sweep of the task. */
  readonly state: "complete" | "incomplete" | StopReason;
  /** Entries of indexes that were read. */
  readonly scanned: number;
  /** Indexes that could not be read or processed. */
  readonly unread: number;
  /** The counts of the task, by the names of their metrics. */
  readonly counts: Partial<Record<MetricName, number>>;
}

export interface SweepReport {
  /**
   * `complete`: all sweeps are over. `incomplete`: all sweeps are over, but some indexes could not be read or processed, or
   * some completions could not be sent; the next sweep retries them. `busy`: another run holds the lease, and this one did
   * nothing. `out_of_time`, `lease_lost`: a task stopped, and the next run resumes its sweep at the checkpoint.
   */
  readonly state: "complete" | "incomplete" | "busy" | StopReason;
  /** Blocked executions that the task `dependencies` read. */
  readonly scanned: number;
  /** Completions sent. */
  readonly repaired: number;
  /** Completions due but not sent: the queue holds many messages, or the time was too short. */
  readonly deferred: number;
  readonly promoted: number;
  /** Promotions that the library refused. */
  readonly refused: number;
  /** Of all tasks. */
  readonly unreadable: number;
  /** Of all tasks: indexes that could not be read or processed. */
  readonly unread: number;
  readonly tasks: Partial<Record<TaskName, TaskReport>>;
}

/** The report of a run that did nothing. */
export function busyReport(): SweepReport {
  return {
    state: "busy",
    scanned: 0,
    repaired: 0,
    deferred: 0,
    promoted: 0,
    refused: 0,
    unreadable: 0,
    unread: 0,
    tasks: {},
  };
}

/** `isHeld`: the run had the lease to its end. */
export function buildReport(sweeps: readonly TaskSweep[], isHeld: boolean): SweepReport {
  const tasks = Object.fromEntries(sweeps.map((sweep) => [sweep.task.name, taskReport(sweep, isHeld)]));
  const states = new Set(Object.values(tasks).map(({ state }) => state));
  const dependencies = sweeps.find(({ task }) => task.name === "dependencies")?.run;
  const count = (metric: MetricName): number => dependencies?.counts.get(metric) ?? 0;
  const { unread, unreadable } = totalsOf(sweeps);
  return {
    state:
      (["lease_lost", "out_of_time", "incomplete"] as const).find((state) => states.has(state)) ?? "complete",
    scanned: dependencies?.scanned ?? 0,
    repaired: count(METRICS.completionsRepaired),
    deferred: count(METRICS.completionsDeferred),
    promoted: count(METRICS.executionsPromoted),
    refused: count(METRICS.promotionsRefused),
    unreadable,
    unread,
    tasks,
  };
}

function taskReport(sweep: TaskSweep, isHeld: boolean): TaskReport {
  const { run, error, stopReason } = sweep;
  const unread = run.progress.failures;
  const isComplete = unread === 0 && run.unsent === 0 && error === undefined;
  const ended = isComplete ? "complete" : "incomplete";
  return {
    state: isHeld ? (stopReason ?? ended) : "lease_lost",
    scanned: run.scanned,
    unread,
    counts: Object.fromEntries(run.counts),
  };
}

function totalsOf(sweeps: readonly TaskSweep[]): { readonly unread: number; readonly unreadable: number } {
  return {
    unread: sweeps.reduce((sum, { run }) => sum + run.progress.failures, 0),
    unreadable: sweeps.reduce((sum, { run }) => sum + run.unreadable, 0),
  };
}

/** Emits the counts of all tasks, and how long the sweep of the dependencies took if it is complete. */
export function emitMetrics(run: SweepRun, sweeps: readonly TaskSweep[], isHeld: boolean): void {
  const { telemetry } = run.ports;
  for (const sweep of sweeps) {
    for (const [metric, value] of sweep.run.counts) telemetry.count(metric, value);
    for (const [metric, ms] of sweep.run.ages) telemetry.measure(metric, Math.round(ms / 1_000));
    if (sweep.task.name !== "dependencies" || taskReport(sweep, isHeld).state !== "complete") continue;
    telemetry.measure(METRICS.sweepDuration, Math.max(0, run.serverNowMs - sweep.run.progress.startedAtMs));
  }
  const { unread, unreadable } = totalsOf(sweeps);
  telemetry.count(METRICS.recordsUnreadable, unreadable);
  telemetry.count(METRICS.indexesUnread, unread);
}
