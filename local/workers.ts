import { setTimeout as sleep } from "node:timers/promises";
import { promoteDue } from "#sdk/worker/promote.ts";
import { type ExecutionHandler, workBatch } from "#sdk/worker/worker.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import type { LaneId, Partition } from "#shared/contract/ids.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { messageOf } from "#shared/errors.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";

export interface WorkersOptions {
  readonly valkey: Pipelines;
  readonly completions: CompletionPublisher;
  readonly router: PartitionRouter;
  readonly partition: Partition;
  readonly lanes: readonly LaneId[];
  /** Number of workers; each polls every lane. */
  readonly count: number;
  readonly run: ExecutionHandler;
  readonly onError: (error: string) => void;
}

/** Executions that a worker claims at once. */
const BATCH = 25;
const IDLE_MS = 10;
const PAUSE_AFTER_ERROR_MS = 250;

/** Workers that claim and run the eligible executions of one partition. */
export class Workers {
  readonly #options: WorkersOptions;
  readonly #stopping = new AbortController();
  readonly #loops: Promise<void>[] = [];
  #busy = 0;

  constructor(options: WorkersOptions) {
    this.#options = options;
  }

  /** Whether a worker has claimed work whose completion is not sent yet, or is polling. */
  get isBusy(): boolean {
    return this.#busy > 0;
  }

  start(): void {
    for (let number = 1; number <= this.#options.count; number += 1) this.#loops.push(this.#loop(number));
  }

  /** Stops claiming and waits until claimed executions have ended. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await Promise.all(this.#loops);
  }

  async #loop(number: number): Promise<void> {
    const identity = { workerId: `local-${number}`, instanceId: `local-${process.pid}-${number}` };
    while (!this.#stopping.signal.aborted) {
      let worked = 0;
      let idle = IDLE_MS;
      this.#busy += 1;
      try {
        for (const lane of this.#options.lanes) worked += await this.#workOn(lane, identity);
      } catch (error) {
        this.#options.onError(`a worker failed: ${messageOf(error)}`);
        idle = PAUSE_AFTER_ERROR_MS;
      } finally {
        this.#busy -= 1;
      }
      if (worked === 0) await sleep(idle);
    }
  }

  async #workOn(lane: LaneId, identity: { workerId: string; instanceId: string }): Promise<number> {
    const { valkey, router, completions, partition, run } = this.#options;
    await promoteDue({ valkey, router }, { partition, lane });
    const worked = await workBatch({ valkey, router, completions, identity }, { partition, lane }, run, {
      limit: BATCH,
    });
    return worked.length;
  }
}
