import type { Pipelines } from "#shared/contract/command.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import { messageOf } from "#shared/errors.ts";
import { readPausedLanes } from "#shared/ready/paused-lanes.ts";
import type { Log } from "#shared/runtime/telemetry.ts";

/** How long a read counts, in milliseconds. A pause takes effect in every worker within this time. */
const FRESH_MS = 1_000;
/**
 * How long the queue hides the message of an execution whose lane is paused, in seconds. A longer time costs fewer invocations
 * of a paused Lambda worker, and delays what waits by as much after the lane is resumed.
 */
export const PARK_SECONDS = 300;

/** Knows which lanes an operator has paused. */
export class LanePauses {
  readonly #valkey: Pipelines;
  readonly #log: Log;
  readonly #known = new Map<LaneId, { readonly readAt: number; readonly isPaused: Promise<boolean> }>();

  constructor(valkey: Pipelines, log: Log) {
    this.#valkey = valkey;
    this.#log = log;
  }

  /**
   * Whether a lane is paused, as of a second ago at most. Never rejects. While the pauses cannot be read, the last answer counts:
   * in a cluster, a node that is down must not stop the work of the others.
   */
  isPaused(lane: LaneId): Promise<boolean> {
    const now = performance.now();
    const known = this.#known.get(lane);
    if (known !== undefined && now - known.readAt < FRESH_MS) return known.isPaused;
    const isPaused = this.#read(lane, known?.isPaused);
    this.#known.set(lane, { readAt: now, isPaused });
    return isPaused;
  }

  async #read(lane: LaneId, last: Promise<boolean> | undefined): Promise<boolean> {
    try {
      return (await readPausedLanes(this.#valkey, [lane])).has(lane);
    } catch (error) {
      this.#log.warn("paused lanes not read, the last known ones count", { reason: messageOf(error) });
      return last ?? false;
    }
  }
}
