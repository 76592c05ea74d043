import { backoffMs, pause } from "#relay/pause.ts";
import type { Tally } from "#relay/tally.ts";
import type { Completion } from "#shared/contract/message.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import type { Log } from "#shared/runtime/telemetry.ts";

/** The maximum of SendMessageBatch. With fewer completions, the forwarder waits `LINGER_MS` for more. */
const BATCH = 10;
const LINGER_MS = 10;
/** Completions per call of the publisher, which sends the batches concurrently. */
const MAX_PER_SEND = 400;
/** Maximum completions to hold while the queue is unavailable: about 50 MB. */
const CAPACITY = 100_000;
/** The deadline of one send. Completions not accepted by then are sent again. */
const SEND_MS = 10_000;
const FIRST_PAUSE_MS = 200;
const MAX_PAUSE_MS = 10_000;

export interface ForwarderPorts {
  readonly publisher: CompletionPublisher;
  readonly tally: Tally;
  readonly log: Log;
  /** Maximum completions to hold; the default is 100,000. */
  readonly capacity?: number;
}

/**
 * Forwards completions to the queue in batches. Batches of one send are concurrent, sends are sequential: completions
 * that arrive meanwhile fill the next batches. Completions that the queue refuses are retried without limit.
 *
 * At capacity, the oldest completions are dropped. The reconciler recovers them first, because it looks for completions
 * that are older than its grace period.
 */
export class Forwarder {
  readonly #ports: ForwarderPorts;
  readonly #capacity: number;
  readonly #closing = new AbortController();
  readonly #done: Promise<void>;
  #waiting: Completion[] = [];
  #arrival = Promise.withResolvers<void>();
  /** Milliseconds since the epoch. */
  #deadlineMs = Number.POSITIVE_INFINITY;

  constructor(ports: ForwarderPorts) {
    this.#ports = ports;
    this.#capacity = ports.capacity ?? CAPACITY;
    this.#done = this.#run();
  }

  /** Completions that are not in flight. */
  get waiting(): number {
    return this.#waiting.length;
  }

  offer(completion: Completion): void {
    this.#waiting.push(completion);
    this.#makeRoom();
    this.#arrival.resolve();
  }

  /** Drains until `deadlineMs` (milliseconds since the epoch). Returns the number of unsent completions. */
  async close(deadlineMs: number): Promise<number> {
    this.#deadlineMs = deadlineMs;
    this.#closing.abort();
    this.#arrival.resolve();
    await this.#done;
    return this.#waiting.length;
  }

  async #run(): Promise<void> {
    let failures = 0;
    for (;;) {
      await this.#untilDue();
      if (this.#waiting.length === 0 || Date.now() >= this.#deadlineMs) return;
      const sent = this.#waiting.splice(0, MAX_PER_SEND);
      const results = await this.#ports.publisher.send(
        sent,
        Math.min(Date.now() + SEND_MS, this.#deadlineMs),
      );
      const refused = this.#requeueRefused(sent, results);
      failures = refused ? failures + 1 : 0;
      if (refused) await this.#pauseAfter(failures);
    }
  }

  /** Waits for a completion, then briefly for a full batch. When nothing is waiting afterwards, the relay is closing. */
  async #untilDue(): Promise<void> {
    if (this.#waiting.length === 0 && !this.#closing.signal.aborted) {
      this.#arrival = Promise.withResolvers();
      await this.#arrival.promise;
    }
    if (this.#waiting.length < BATCH) await pause(LINGER_MS, this.#closing.signal);
  }

  /** Requeues refused completions at the front. Returns whether there were any. */
  #requeueRefused(sent: readonly Completion[], results: readonly SendResult[]): boolean {
    const refused: Completion[] = [];
    let reason = "the completion was not sent";
    for (const [position, completion] of sent.entries()) {
      const result = results[position];
      if (result?.ok) continue;
      refused.push(completion);
      if (result) reason = result.error.message;
    }
    this.#ports.tally.forwarded += sent.length - refused.length;
    if (refused.length === 0) return false;
    this.#waiting.unshift(...refused);
    this.#ports.log.warn("queue refused completions, will retry", {
      refused: refused.length,
      waiting: this.#waiting.length,
      reason,
    });
    this.#makeRoom();
    return true;
  }

  /** Drops at least 1 % at a time, since removing from the front of a long array is slow. */
  #makeRoom(): void {
    const excess = this.#waiting.length - this.#capacity;
    if (excess <= 0) return;
    const dropped = this.#waiting.splice(0, Math.max(excess, Math.ceil(this.#capacity / 100))).length;
    this.#ports.tally.dropped += dropped;
    this.#ports.log.error("buffer full, completions dropped: the reconciler recovers them", {
      dropped,
    });
  }

  /** Closing ends the current pause and shortens later ones. */
  #pauseAfter(failures: number): Promise<void> {
    const { signal } = this.#closing;
    return signal.aborted
      ? pause(FIRST_PAUSE_MS)
      : pause(backoffMs(failures, FIRST_PAUSE_MS, MAX_PAUSE_MS), signal);
  }
}
