import { randomUUID } from "node:crypto";
import type { Delivery, DeliveryResult, WorkerEngine } from "#sdk/kit/engine.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import type { ReadyExecution } from "#shared/ready/message.ts";

/** A delivery, and what to do with its result. */
interface Job {
  readonly delivery: Delivery;
  readonly onResult: ((result: DeliveryResult) => void) | undefined;
}

/** Executions that wait in this process for a free place, per place. More are announced, so that other workers run them. */
const BACKLOG_PER_PLACE = 4;
/** The same in a lane without a ready queue, in all. Other workers find these by polling, whether they wait here or not. */
const BACKLOG_WITHOUT_QUEUE = 10_000;

/** Runs the executions of one lane, a limited number at once. */
export class LaneRunner {
  readonly lane: LaneId;
  readonly #engine: WorkerEngine;
  readonly #concurrency: number;
  readonly #maxBacklog: number;
  readonly #backlog: Job[] = [];
  readonly #known = new Set<string>();
  #running = 0;
  #isStopping = false;
  #unstarted: ReadyExecution[] = [];
  /** Executions that a worker lost before run one at a time: one of them may end this process too. */
  #suspects: Promise<unknown> = Promise.resolve();
  #onChange = Promise.withResolvers<void>();

  constructor(
    engine: WorkerEngine,
    lane: LaneId,
    { concurrency, hasQueue }: { readonly concurrency: number; readonly hasQueue: boolean },
  ) {
    this.#engine = engine;
    this.lane = lane;
    this.#concurrency = concurrency;
    this.#maxBacklog = hasQueue ? concurrency * BACKLOG_PER_PLACE : BACKLOG_WITHOUT_QUEUE;
  }

  /** Whether an operator has paused the lane. */
  isPaused(): Promise<boolean> {
    return this.#engine.pauses.isPaused(this.lane);
  }

  /** How many more executions can begin at once. */
  get free(): number {
    return this.#isStopping ? 0 : Math.max(0, this.#concurrency - this.#running - this.#backlog.length);
  }

  get isIdle(): boolean {
    return this.#running === 0 && this.#backlog.length === 0;
  }

  /** Resolves when an execution has ended, or when work was added. */
  get changed(): Promise<void> {
    return this.#onChange.promise;
  }

  /**
   * Takes an execution that was found without a message. Returns false if there is no room for it. `isJustReleased`: this
   * process has just made it eligible.
   */
  offer(ready: ReadyExecution, isJustReleased = false): boolean {
    if (this.#isStopping) return false;
    if (this.#known.has(ready.executionId)) return true;
    if (this.#backlog.length >= this.#maxBacklog) return false;
    const delivery = { messageId: randomUUID(), receiveCount: 1, ready, isJustReleased };
    this.#add({ delivery, onResult: undefined });
    return true;
  }

  /** Takes a message. `onResult` is called once. */
  deliver(delivery: Delivery, onResult: (result: DeliveryResult) => void): void {
    this.#add({ delivery, onResult });
  }

  /** Begins no further execution. Those that have not begun go back: their messages to the queue, the others to `takeUnstarted`. */
  stop(): void {
    this.#isStopping = true;
    for (const job of this.#backlog.splice(0)) {
      const result = this.#giveBack(job);
      job.onResult?.(result);
    }
    this.#change();
  }

  /** The executions without a message that have not begun when the lane stopped. */
  takeUnstarted(): ReadyExecution[] {
    return this.#unstarted.splice(0);
  }

  #giveBack({ delivery, onResult }: Job): DeliveryResult {
    if (onResult === undefined) this.#unstarted.push(delivery.ready);
    return { kind: "retry", reason: "the worker stops", afterMs: 0 };
  }

  #add(job: Job): void {
    this.#known.add(job.delivery.ready.executionId);
    this.#backlog.push(job);
    this.#pump();
    this.#change();
  }

  #pump(): void {
    while (this.#running < this.#concurrency) {
      const job = this.#backlog.shift();
      if (job === undefined) return;
      this.#running += 1;
      void this.#run(job).then((result) => {
        this.#running -= 1;
        this.#known.delete(job.delivery.ready.executionId);
        job.onResult?.(result);
        this.#pump();
        this.#change();
      });
    }
  }

  async #run(job: Job): Promise<DeliveryResult> {
    const noDeadline = Number.POSITIVE_INFINITY;
    const prepared = await this.#engine.prepare(job.delivery, noDeadline);
    if (prepared.kind === "settled") return prepared.result;
    // The lane may have stopped meanwhile.
    const begin = (): Promise<DeliveryResult> | DeliveryResult =>
      this.#isStopping ? this.#giveBack(job) : this.#engine.run(prepared, noDeadline);
    if (!prepared.isSuspect) return begin();
    const run = this.#suspects.then(begin);
    this.#suspects = run;
    return run;
  }

  #change(): void {
    const { resolve } = this.#onChange;
    this.#onChange = Promise.withResolvers<void>();
    resolve();
  }
}
