/** One invocation's part of a sweep: what it works with, what it found, and whether it may go on. */

import type { Pipelines } from "#shared/contract/command.ts";
import type { LaneId, Partition } from "#shared/contract/ids.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { messageOf } from "#shared/errors.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { type Calls, KEEP_EVERY_MS, type Lease } from "#shared/reconcile/lease.ts";
import { formatPlace, type Progress, type Unit } from "#shared/reconcile/place.ts";
import { type GaugingTelemetry, type LogFields, METRICS } from "#shared/runtime/telemetry.ts";

export interface ReconcilerPorts {
  readonly valkey: Pipelines & Calls;
  readonly publisher: CompletionPublisher;
  readonly telemetry: GaugingTelemetry;
  /** Loads the library where it is missing. */
  readonly ensureLibrary: () => Promise<void>;
  readonly router: PartitionRouter;
  /** All of the deployment's, in order. */
  readonly partitions: readonly Partition[];
  /** Swept besides those that the deployment records. */
  readonly lanes: readonly LaneId[];
  /**
   * Lanes that the deployment is likely to record. They are read at once, and not after its lanes are known; a wrong
   * guess costs a round trip and nothing else.
   */
  readonly likelyLanes: readonly LaneId[];
  /** Milliseconds for which an upstream must have ended before dispatch counts as having missed it. */
  readonly graceMs: number;
  /** When the invocation must have answered: milliseconds since the epoch. */
  readonly deadlineMs: number;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
}

export type StopReason = "out_of_time" | "lease_lost";

/** Thrown where a run may not go on; what is not known to be done then is left to the next run. */
export class SweepStopped extends Error {
  override readonly name = "SweepStopped";
  readonly reason: StopReason;

  constructor(reason: StopReason) {
    super(`the sweep stopped: ${reason}`);
    this.reason = reason;
  }
}

/** What an invocation has done; all are counts. */
export interface Tally {
  scanned: number;
  repaired: number;
  promoted: number;
  refused: number;
  unreadable: number;
}

/** A step is begun while this many of the slowest so far would fit into the time that is left. */
const RESERVED_STEPS = 2;
/** Warnings of one kind in one run: a broken deployment has one for every execution. */
const WARNINGS_SHOWN = 20;

export class Run {
  readonly ports: ReconcilerPorts;
  readonly progress: Progress;
  readonly tally: Tally = { scanned: 0, repaired: 0, promoted: 0, refused: 0, unreadable: 0 };
  readonly #lease: Lease;
  readonly #serverAheadMs: number;
  readonly #shown = new Map<string, number>();
  #stepBegunMs: number;
  #slowestStepMs = 0;
  #keptAtMs: number;
  #oldestAgeMs = 0;

  /** `serverNowMs` is what the server's clock says at `now`, when the lease was taken. */
  constructor(ports: ReconcilerPorts, progress: Progress, lease: Lease, serverNowMs: number) {
    const nowMs = ports.now();
    this.ports = ports;
    this.progress = progress;
    this.#lease = lease;
    this.#serverAheadMs = serverNowMs - nowMs;
    this.#stepBegunMs = nowMs;
    this.#keptAtMs = nowMs;
  }

  /** Milliseconds since the epoch, by the server's clock. */
  get serverNowMs(): number {
    return this.ports.now() + this.#serverAheadMs;
  }

  /**
   * Whether something happened longer ago than the grace. Its time was written by a worker's clock, or a dispatcher's,
   * and is compared with the server's. One that is not there, or far in the future, counts as past: a completion too
   * many changes nothing, and one too few leaves its children waiting for ever.
   */
  isPastGrace(atMs: number | undefined): boolean {
    return atMs === undefined || Math.abs(this.serverNowMs - atMs) > this.ports.graceMs;
  }

  /** Since when, in milliseconds since the epoch, an execution has been waiting for upstreams that had all ended. */
  noteAge(sinceMs: number): void {
    this.#oldestAgeMs = Math.max(this.#oldestAgeMs, this.serverNowMs - sinceMs);
  }

  /** Ends a step and begins the next. Throws a SweepStopped where there is no time for it, or the lease is lost. */
  async step(): Promise<void> {
    const nowMs = this.ports.now();
    this.#slowestStepMs = Math.max(this.#slowestStepMs, nowMs - this.#stepBegunMs);
    this.#stepBegunMs = nowMs;
    if (nowMs + RESERVED_STEPS * this.#slowestStepMs >= this.ports.deadlineMs) {
      throw new SweepStopped("out_of_time");
    }
    if (nowMs - this.#keptAtMs >= KEEP_EVERY_MS) await this.keep();
  }

  /** Renews the lease and keeps the place. Throws a SweepStopped, and what the server or the client raised. */
  async keep(): Promise<void> {
    const nowMs = this.ports.now();
    if (!(await this.#lease.keep(formatPlace(this.progress.place)))) throw new SweepStopped("lease_lost");
    this.#keptAtMs = nowMs;
  }

  /** Tells of something that makes no sense and is left alone. */
  unreadable(message: string, fields: LogFields): void {
    this.tally.unreadable += 1;
    this.#warn(message, fields);
  }

  /** An index is left where it is, to be looked at again. */
  failed({ lane, partition }: Unit, error: unknown): void {
    this.#warn("an index of blocked executions is not dealt with, and is looked at again", {
      lane,
      partition,
      reason: messageOf(error),
    });
  }

  report(unread: number): void {
    const { telemetry } = this.ports;
    telemetry.count(METRICS.executionsScanned, this.tally.scanned);
    telemetry.count(METRICS.completionsRepaired, this.tally.repaired);
    telemetry.count(METRICS.executionsPromoted, this.tally.promoted);
    telemetry.count(METRICS.promotionsRefused, this.tally.refused);
    telemetry.count(METRICS.recordsUnreadable, this.tally.unreadable);
    telemetry.count(METRICS.indexesUnread, unread);
    telemetry.measure(METRICS.oldestResolvableAge, Math.round(this.#oldestAgeMs / 1_000));
  }

  #warn(message: string, fields: LogFields): void {
    const shown = (this.#shown.get(message) ?? 0) + 1;
    this.#shown.set(message, shown);
    if (shown <= WARNINGS_SHOWN) this.ports.telemetry.warn(message, fields);
  }
}

/** The indexes of one batch of which not everything could be dealt with. Each is told of once. */
export class Failures {
  readonly #run: Run;
  readonly #units = new Set<Unit>();

  constructor(run: Run) {
    this.#run = run;
  }

  add(unit: Unit, error: unknown): void {
    if (!this.#units.has(unit)) this.#run.failed(unit, error);
    this.#units.add(unit);
  }

  has(unit: Unit): boolean {
    return this.#units.has(unit);
  }
}
