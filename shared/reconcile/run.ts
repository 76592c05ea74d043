/** One run of the reconciler: its ports, its counters, its deadline and its lease. */

import type { Pipelines } from "#shared/contract/command.ts";
import type { ExecutionId, LaneId, Partition } from "#shared/contract/ids.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { messageOf } from "#shared/errors.ts";
import type { Backlog } from "#shared/queue/backlog.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { formatCheckpoint, type LaneIndex, type SweepProgress } from "#shared/reconcile/checkpoint.ts";
import { type CommandCaller, type Lease, RENEW_INTERVAL_MS } from "#shared/reconcile/lease.ts";
import { type GaugingTelemetry, type LogFields, METRICS } from "#shared/runtime/telemetry.ts";

export interface ReconcilerPorts {
  readonly valkey: Pipelines & CommandCaller;
  readonly publisher: CompletionPublisher;
  readonly backlog: Backlog;
  readonly telemetry: GaugingTelemetry;
  /** Loads the Valkey library where it is missing. */
  readonly ensureLibrary: () => Promise<void>;
  readonly router: PartitionRouter;
  /** All partitions of the deployment, in ascending order. */
  readonly partitions: readonly Partition[];
  /** Lanes to sweep in addition to those that the deployment records. */
  readonly lanes: readonly LaneId[];
  /**
   * Lanes that the deployment probably records. The first pages of their indexes are read in the same round trip as the
   * recorded lanes. A wrong guess costs one more round trip.
   */
  readonly likelyLanes: readonly LaneId[];
  /** Milliseconds after the end of an upstream during which dispatch may still process its completion. */
  readonly graceMs: number;
  /** When the run must have ended, in milliseconds since the epoch. */
  readonly deadlineMs: number;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
}

export type StopReason = "out_of_time" | "lease_lost";

/** Thrown when a run must stop. The next run repeats everything after the last checkpoint. */
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

/** The counters of a run. */
export interface RunCounts {
  /** Entries of the indexes. */
  scanned: number;
  /** Completions sent. */
  repaired: number;
  /** Completions due but not sent: the queue holds many messages, or the time was too short. */
  deferred: number;
  promoted: number;
  /** Promotions that the library refused. */
  refused: number;
  unreadable: number;
}

export const NO_COUNTS: Readonly<RunCounts> = {
  scanned: 0,
  repaired: 0,
  deferred: 0,
  promoted: 0,
  refused: 0,
  unreadable: 0,
};

/** The share of a run's time for reading. The rest is for sending. */
const READING_SHARE = 0.75;
/** A step begins only if the remaining time is longer than this many of the slowest steps so far. */
const RESERVED_STEPS = 2;
/** Limit per run and per message: in a broken deployment, every execution may cause a warning. */
const MAX_WARNINGS = 20;
/** Upstreams remembered as reported. Beyond that, one may be counted several times. */
const MAX_REPORTED_UPSTREAMS = 10_000;

export class SweepRun {
  readonly ports: ReconcilerPorts;
  readonly progress: SweepProgress;
  readonly counts: RunCounts = { ...NO_COUNTS };
  readonly #lease: Lease;
  readonly #serverAheadMs: number;
  readonly #warnings = new Map<string, number>();
  readonly #readingDeadlineMs: number;
  readonly #reportedUpstreams = new Set<ExecutionId>();
  #stepBegunMs: number;
  #slowestStepMs = 0;
  #savedAtMs: number;
  #oldestAgeMs = 0;

  /** `serverNowMs` is the server's time when the lease was acquired, in milliseconds since the epoch. */
  constructor(ports: ReconcilerPorts, progress: SweepProgress, lease: Lease, serverNowMs: number) {
    const nowMs = ports.now();
    this.ports = ports;
    this.progress = progress;
    this.#lease = lease;
    this.#serverAheadMs = serverNowMs - nowMs;
    this.#stepBegunMs = nowMs;
    this.#savedAtMs = nowMs;
    this.#readingDeadlineMs = nowMs + (ports.deadlineMs - nowMs) * READING_SHARE;
  }

  /** Milliseconds since the epoch, by the server's clock. */
  get serverNowMs(): number {
    return this.ports.now() + this.#serverAheadMs;
  }

  /**
   * Whether a time lies outside the grace period. The time comes from the clock of a worker or a dispatcher and is
   * compared with the server's. A missing time, or one far in the future, counts as past the grace period: an extra
   * completion changes nothing, but a missing one leaves its children waiting forever.
   */
  isPastGrace(atMs: number | undefined): boolean {
    return atMs === undefined || Math.abs(this.serverNowMs - atMs) > this.ports.graceMs;
  }

  /** Records since when (milliseconds since the epoch) a blocked execution could have been released or skipped. */
  recordResolvableSince(sinceMs: number): void {
    this.#oldestAgeMs = Math.max(this.#oldestAgeMs, this.serverNowMs - sinceMs);
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
    if (nowMs - this.#savedAtMs >= RENEW_INTERVAL_MS) await this.saveCheckpoint();
  }

  /**
   * Renews the lease and saves the checkpoint. Throws SweepStopped if the lease is lost. Rejects with the error of the
   * server or the client.
   */
  async saveCheckpoint(): Promise<void> {
    const nowMs = this.ports.now();
    const isHeld = await this.#lease.renew(formatCheckpoint(this.progress.checkpoint));
    if (!isHeld) throw new SweepStopped("lease_lost");
    this.#savedAtMs = nowMs;
  }

  /** Counts and logs a record that is invalid and therefore skipped. */
  reportUnreadable(message: string, fields: LogFields): void {
    this.counts.unreadable += 1;
    this.#warn(message, fields);
  }

  /** As `reportUnreadable`, for the record of an upstream, which many executions may wait for: once per run. */
  reportUpstream(id: ExecutionId, message: string, fields: LogFields): void {
    if (this.#reportedUpstreams.has(id)) return;
    if (this.#reportedUpstreams.size < MAX_REPORTED_UPSTREAMS) this.#reportedUpstreams.add(id);
    this.reportUnreadable(message, { execution_id: id, ...fields });
  }

  /** Logs a failure that is not about one record. */
  warn(message: string, fields: LogFields): void {
    this.#warn(message, fields);
  }

  /** Keeps the cursor of an index, so that its page is retried, and logs the error. */
  failIndex(index: LaneIndex, error: Error): void {
    this.progress.fail(index);
    this.#warn("index of blocked executions not processed, will retry", {
      lane: index.lane,
      partition: index.partition,
      reason: messageOf(error),
    });
  }

  emitMetrics(unread: number): void {
    const { telemetry } = this.ports;
    telemetry.count(METRICS.executionsScanned, this.counts.scanned);
    telemetry.count(METRICS.completionsRepaired, this.counts.repaired);
    telemetry.count(METRICS.completionsDeferred, this.counts.deferred);
    telemetry.count(METRICS.executionsPromoted, this.counts.promoted);
    telemetry.count(METRICS.promotionsRefused, this.counts.refused);
    telemetry.count(METRICS.recordsUnreadable, this.counts.unreadable);
    telemetry.count(METRICS.indexesUnread, unread);
    telemetry.measure(METRICS.oldestResolvableAge, Math.round(this.#oldestAgeMs / 1_000));
  }

  #warn(message: string, fields: LogFields): void {
    const count = (this.#warnings.get(message) ?? 0) + 1;
    this.#warnings.set(message, count);
    if (count <= MAX_WARNINGS) this.ports.telemetry.warn(message, fields);
  }
}
