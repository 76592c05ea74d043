/**
 * What a task of the reconciler is. The runner (`sweep.ts`) owns the lease, the checkpoints, the time and the paging; a
 * task names the indexes that it reads and processes their entries. Each task is one file in `tasks/`.
 *
 * A task may be stopped between any two calls, and a process may die anywhere in them. The next run repeats everything
 * after the last checkpoint, so processing an entry twice must be harmless.
 */

import type { IndexEntry, IndexFamily } from "#shared/reconcile/indexes.ts";
import type { Outcome } from "#shared/reconcile/outcome.ts";
import type { TaskRun } from "#shared/reconcile/run.ts";
import type { TaskName } from "#shared/reconcile/task-names.ts";
import type { GaugeName, MetricName } from "#shared/runtime/telemetry.ts";

export interface ReconcilerTask {
  readonly name: TaskName;
  /** In the order in which they are read. The first page of each index is read with those of all other tasks. */
  readonly families: readonly IndexFamily[];
  /** The counts of the task. A run emits each of them, also if it is 0. */
  readonly metrics: readonly MetricName[];
  /** Metrics in seconds: how long ago something could have been done. A run emits each of them, also if it is 0. */
  readonly ages: readonly GaugeName[];
  /** Entries processed together. A page above it is processed alone. */
  readonly batchSize: number;
  /** Whether the task sends what it has read at the end of its sweep. It then stops reading after 3/4 of the time. */
  readonly sendsAtEnd: boolean;
  /** Repeated within one invocation if `RECONCILE_INTERVAL_SECONDS` is below the schedule's interval. */
  readonly isTimeCritical: boolean;
  /** Begins the task's part of a run. State of one run belongs into the returned object. */
  begin(run: TaskRun): TaskWork;
}

export interface TaskWork {
  /**
   * Processes entries of any indexes of the task. Returns one outcome per entry, in their order. The runner moves past a
   * page only if all its entries have an outcome that is `ok`. Throws SweepStopped if the time is up or the lease is lost.
   */
  process(entries: readonly IndexEntry[]): Promise<readonly Outcome[]>;
  /**
   * Called repeatedly once all pages are processed, or if the time for reading is up. Does a part of the rest, and
   * returns whether there is more.
   */
  finish?(): Promise<boolean>;
}
