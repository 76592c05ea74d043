/** One run of the reconciler: its ports, its deadline and its lease. `TaskRun` is the part of a run that one task has. */

import type { Pipelines } from "#shared/contract/command.ts";
import type { ExecutionId, LaneId, Partition } from "#shared/contract/ids.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { messageOf } from "#shared/errors.ts";
import type { Backlog } from "#shared/queue/backlog.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import type { ReadyPublisher } from "#shared/ready/publisher.ts";
import { type Checkpoints, formatCheckpoints, type SweepProgress } from "#shared/reconcile/checkpoint.ts";
import type { IndexPosition } from "#shared/reconcile/indexes.ts";
import { type CommandCaller, type Lease, RENEW_INTERVAL_MS } from "#shared/reconcile/lease.ts";
import type { TaskName } from "#shared/reconcile/task-names.ts";
import type { GaugeName, GaugingTelemetry, LogFields, MetricName } from "#shared/runtime/telemetry.ts";

/** Where executions are announced to workers. */
export interface ReadyPorts {
  readonly publisher: ReadyPublisher;
  /** The backlog of each lane's queue. */
  readonly backlogs: ReadonlyMap<LaneId, Backlog>;
}

/** What the tasks need. */
export interface RunPorts {
  readonly valkey: Pipelines & CommandCaller;
  readonly publisher: CompletionPublisher;
  readonly backlog: Backlog;
  /** Undefined: no lane has a ready queue, and workers poll. */
  readonly readyQueues?: ReadyPorts | undefined;
  readonly telemetry: GaugingTelemetry;
  /** Loads the Valkey library where it is missing. */
  readonly ensureLibrary: () => Promise<void>;
  readonly router: PartitionRouter;
  /** All partitions of the deployment, in ascending order. */
  readonly partitions: readonly Partition[];
  /** Milliseconds after the end of an upstream during which dispatch may still process its completion. */
  readonly graceMs: number;
  /** When the run must have ended, in milliseconds since the epoch. */
  readonly deadlineMs: number;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** Waits between two repetitions. */
  readonly sleep: (ms: number) => Promise<unknown>;
}

export type StopReason = "out_of_time" | "lease_lost";

/** Thrown when a task or the whole run must stop. The next run repeats everything after the last checkpoint. */
export class SweepStopped extends Error {
  override readonly name = "SweepStopped";
  readonly reason: StopReason;

  constructor(reason: StopReason) {
    super(`the sweep stopped: ${reason}`);
    this.reason = reason;
  }
}

/** A record that is invalid and therefore skipped. */
export interface Unreadable {
  readonly message: string;
  readonly fields: LogFields;
}

/** The share of a run's time for reading, if a task sends at the end of its sweep. */
const READING_SHARE = 0.75;
/** A step begins only if the remaining time is longer than this many of the slowest steps so far. */
const RESERVED_STEPS = 2;
/** Limit per run and per message: in a broken deployment, every execution may cause a warning. */
const MAX_WARNINGS = 20;
/** Upstreams remembered as reported. Beyond that, one may be counted several times. */
const MAX_REPORTED_UPSTREAMS = 10_000;

/** What all tasks of a run share. */
export class SweepRun {
  readonly ports: RunPorts;
  readonly startedAtMs: number;
  /** Lanes that an operator has paused: what waits in them unclaimed is not announced again. */
  readonly pausedLanes: ReadonlySet<LaneId>;
  /** Checkpoints of the tasks that have begun a sweep and not ended it. */
  readonly unfinished = new Map<TaskName, SweepProgress>();
  readonly #lease: Lease;
  readonly #serverAheadMs: number;
  readonly #warnings = new Map<string, number>();
  #savedAtMs: number;

  /** `serverNowMs` is the server's time when the lease was acquired, in milliseconds since the epoch. */
  constructor(ports: RunPorts, lease: Lease, serverNowMs: number, pausedLanes: ReadonlySet<LaneId>) {
    this.ports = ports;
    this.pausedLanes = pausedLanes;
    this.startedAtMs = ports.now();
    this.#lease = lease;
    this.#serverAheadMs = serverNowMs - this.startedAtMs;
    this.#savedAtMs = this.startedAtMs;
  }

  /** Milliseconds since the epoch, by the server's clock. */
  get serverNowMs(): number {
    return this.ports.now() + this.#serverAheadMs;
  }

  get #checkpoints(): Checkpoints {
    return new Map([...this.unfinished].map(([task, progress]) => [task, progress.checkpoint]));
  }

  /** Saves the checkpoints if the last time is long enough ago. Throws as `saveCheckpoints`. */
  async keepLease(): Promise<void> {
    if (this.ports.now() - this.#savedAtMs >= RENEW_INTERVAL_MS) await this.saveCheckpoints();
  }

  /**
   * Renews the lease and saves the checkpoints. Throws SweepStopped if the lease is lost. Rejects with the error of the
   * server or the client.
   */
  async saveCheckpoints(): Promise<void> {
    const nowMs = this.ports.now();
    const isHeld = await this.#lease.renew(formatCheckpoints(this.#checkpoints));
    if (!isHeld) throw new SweepStopped("lease_lost");
    this.#savedAtMs = nowMs;
  }

  /** Releases the lease and saves the checkpoints for the next run. Returns false if the lease was lost. */
  release(): Promise<boolean> {
    return this.#lease.release(formatCheckpoints(this.#checkpoints));
  }

  warn(message: string, fields: LogFields): void {
    const count = (this.#warnings.get(message) ?? 0) + 1;
    this.#warnings.set(message, count);
    if (count <= MAX_WARNINGS) this.ports.telemetry.warn(message, fields);
  }
}

/** The part of a run that one task has: its counts, its progress, and how long its steps take. */
export class TaskRun {
  readonly name: TaskName;
  readonly ports: RunPorts;
  /** The progress of the current sweep: a task may sweep several times in one run. */
  progress: SweepProgress;
  readonly counts: Map<MetricName, number>;
  /** The highest ages, in milliseconds. */
  readonly ages: Map<GaugeName, number>;
  /** Entries of the indexes that were read. */
  scanned = 0;
  unreadable = 0;
  /** Completions that are not known to be sent. */
  unsent = 0;
  readonly #run: SweepRun;
  readonly #readingDeadlineMs: number;
  readonly #reportedUpstreams = new Set<ExecutionId>();
  #stepBegunMs: number;
  #slowestStepMs = 0;

  constructor(
    run: SweepRun,
    task: {
      readonly name: TaskName;
      readonly metrics: readonly MetricName[];
      readonly ages: readonly GaugeName[];
      readonly sendsAtEnd: boolean;
    },
    progress: SweepProgress,
  ) {
    const { ports, startedAtMs } = run;
    this.name = task.name;
    this.ports = ports;
    this.progress = progress;
    this.counts = new Map(task.metrics.map((metric) => [metric, 0]));
    this.ages = new Map(task.ages.map((metric) => [metric, 0]));
    this.#run = run;
    this.#stepBegunMs = ports.now();
    const share = task.sendsAtEnd ? READING_SHARE : 1;
    this.#readingDeadlineMs = startedAtMs + (ports.deadlineMs - startedAtMs) * share;
  }

  /** Milliseconds since the epoch, by the server's clock. */
  get serverNowMs(): number {
    return this.#run.serverNowMs;
  }

  /** Whether an operator has paused a lane. */
  isPaused(lane: LaneId): boolean {
    return this.#run.pausedLanes.has(lane);
  }

  /** Adds to a count of the task. */
  count(metric: MetricName, by = 1): void {
    this.counts.set(metric, (this.counts.get(metric) ?? 0) + by);
  }

  /** Records since when (milliseconds since the epoch) something could have been done. The highest age counts. */
  recordAge(metric: GaugeName, sinceMs: number): void {
    this.ages.set(metric, Math.max(this.ages.get(metric) ?? 0, this.serverNowMs - sinceMs));
  }

  /**
   * Whether a time lies outside the grace period. The time comes from the clock of a worker or a dispatcher and is
   * compared with the server's. A missing time, or one far in the future, counts as past the grace period: an extra
   * completion changes nothing, but a missing one leaves its children waiting forever.
   */
  isPastGrace(atMs: number | undefined): boolean {
    return atMs === undefined || Math.abs(this.serverNowMs - atMs) > this.ports.graceMs;
  }

  /** Begins a slice of the task's time: what other tasks did meanwhile is no step of this one. */
  beginSlice(): void {
    this.#stepBegunMs = this.ports.now();
  }

  /** Ends a slice, and with it a step. */
  endSlice(): void {
    this.#slowestStepMs = Math.max(this.#slowestStepMs, this.ports.now() - this.#stepBegunMs);
  }

  /**
   * Ends a step and begins the next. Throws SweepStopped if the time is too short or the lease is lost. Rejects with
   * the error of the server or the client.
   */
  beginStep(): Promise<void> {
    return this.#beginStep(this.#readingDeadlineMs);
  }

  /** Ends the steps that read. The time that they took says nothing about the steps that send. */
  beginSending(): void {
    this.#slowestStepMs = 0;
    this.#stepBegunMs = this.ports.now();
  }

  /** As `beginStep`, for a step that sends completions. */
  beginSendingStep(): Promise<void> {
    return this.#beginStep(this.ports.deadlineMs);
  }

  async #beginStep(deadlineMs: number): Promise<void> {
    const nowMs = this.ports.now();
    this.#slowestStepMs = Math.max(this.#slowestStepMs, nowMs - this.#stepBegunMs);
    this.#stepBegunMs = nowMs;
    if (nowMs + RESERVED_STEPS * this.#slowestStepMs >= deadlineMs) {
      throw new SweepStopped("out_of_time");
    }
    await this.#run.keepLease();
  }

  /** Renews the lease and saves the checkpoints. Rejects as `SweepRun.saveCheckpoints`. */
  saveCheckpoint(): Promise<void> {
    return this.#run.saveCheckpoints();
  }

  /** Counts and logs a record that is invalid and therefore skipped. */
  reportUnreadable(message: string, fields: LogFields): void {
    this.unreadable += 1;
    this.#run.warn(message, fields);
  }

  /** As `reportUnreadable`, for the record of an upstream, which many executions may wait for: once per run. */
  reportUpstream(id: ExecutionId, message: string, fields: LogFields): void {
    if (this.#reportedUpstreams.has(id)) return;
    if (this.#reportedUpstreams.size < MAX_REPORTED_UPSTREAMS) this.#reportedUpstreams.add(id);
    this.reportUnreadable(message, { execution_id: id, ...fields });
  }

  /** Logs a failure that is not about one record. */
  warn(message: string, fields: LogFields): void {
    this.#run.warn(message, fields);
  }

  /** Keeps the cursor of an index, so that its page is retried, and logs the error. */
  failIndex(index: IndexPosition, error: Error): void {
    this.progress.fail(index);
    this.#run.warn("index not processed, will retry", {
      task: this.name,
      index: index.family.name,
      ...(index.lane === undefined ? {} : { lane: index.lane }),
      partition: index.partition,
      reason: messageOf(error),
    });
  }
}
