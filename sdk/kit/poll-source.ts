import { setTimeout as sleep } from "node:timers/promises";
import type { LaneRunner } from "#sdk/kit/lane-runner.ts";
import { poll } from "#sdk/kit/poll.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { messageOf } from "#shared/errors.ts";
import type { Log } from "#shared/runtime/telemetry.ts";

/** The pause after a poll that found nothing doubles from the first value to the second. */
const FIRST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 1_000;
/** Executions that one poll takes of each partition, at least. */
const PER_PARTITION = 10;

/** Finds the executions of a lane without a ready queue, in all partitions. */
export class PollSource {
  readonly #valkey: Pipelines;
  readonly #router: PartitionRouter;
  readonly #lane: LaneRunner;
  readonly #log: Log;

  constructor(valkey: Pipelines, router: PartitionRouter, lane: LaneRunner, log: Log) {
    this.#valkey = valkey;
    this.#router = router;
    this.#lane = lane;
    this.#log = log;
  }

  /** Polls until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    let pauseMs = FIRST_PAUSE_MS;
    let last = new Set<string>();
    const { promise: stopped, resolve } = Promise.withResolvers<void>();
    signal.addEventListener("abort", () => resolve(), { once: true });
    while (!signal.aborted) {
      if (this.#lane.free === 0) {
        await Promise.race([this.#lane.changed, stopped]);
        continue;
      }
      if (await this.#lane.isPaused()) {
        await Promise.race([sleep(LONGEST_PAUSE_MS, undefined, { ref: false }), stopped]);
        continue;
      }
      let found = 0;
      try {
        const deps = { valkey: this.#valkey, router: this.#router };
        const polled = await poll(deps, this.#lane.lane, Math.max(PER_PARTITION, this.#lane.free));
        for (const ready of polled) {
          if (!this.#lane.offer(ready)) break;
          // What the last poll found too cannot be run here, for example because its kind is unknown: look at it less often.
          if (!last.has(ready.executionId)) found += 1;
        }
        last = new Set(polled.map(({ executionId }) => executionId));
      } catch (error) {
        this.#log.warn("lane not polled, will retry", { lane: this.#lane.lane, reason: messageOf(error) });
      }
      pauseMs = found > 0 ? FIRST_PAUSE_MS : Math.min(LONGEST_PAUSE_MS, pauseMs * 2);
      const { changed } = this.#lane;
      // Work that ends makes room: then the lane is polled at once.
      await Promise.race([
        sleep(pauseMs, undefined, { ref: false }),
        stopped,
        ...(found > 0 ? [changed] : []),
      ]);
    }
  }
}
