import { growingPause, pause } from "#relay/pause.ts";
import type { Tally } from "#relay/tally.ts";
import type { Completion } from "#shared/contract/message.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import type { Log } from "#shared/runtime/telemetry.ts";

/** Entries of one SendMessageBatch: with fewer it is worth waiting a moment for more. */
const BATCH = 10;
const LINGER_MS = 10;
/** Handed to the publisher together: some batches, which it sends at the same time. */
const AT_ONCE = 400;
/** Completions that wait while the queue is away: some 50 MB. */
const CAPACITY = 100_000;
/** What the queue has not accepted by then is sent once more, in milliseconds. */
const SEND_MS = 10_000;
const FIRST_PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 10_000;

export interface ForwarderPorts {
  readonly publisher: CompletionPublisher;
  readonly tally: Tally;
  readonly log: Log;
  /** Completions that may wait; 100,000 unless given. */
  readonly capacity?: number;
}

/**
 * Sends completions on, in batches, one set of batches after the other: what arrives meanwhile makes the next ones
 * full. What the queue does not accept is sent until it does. Where there is no room for more, the oldest are given
 * up: the reconciler looks for completions that are older than its grace, and finds those first.
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

  /** Completions that are not under way. */
  get waiting(): number {
    return this.#waiting.length;
  }

  offer(completion: Completion): void {
    this.#waiting.push(completion);
    this.#makeRoom();
    this.#arrival.resolve();
  }

  /** Sends what waits, until `deadlineMs` (milliseconds since the epoch); the number of those that remain unsent. */
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
      const sent = this.#waiting.splice(0, AT_ONCE);
      const results = await this.#ports.publisher.send(
        sent,
        Math.min(Date.now() + SEND_MS, this.#deadlineMs),
      );
      const refused = this.#takeBack(sent, results);
      failures = refused ? failures + 1 : 0;
      if (refused) await this.#pauseAfter(failures);
    }
  }

  /** Until something waits, and a moment longer where that would not fill a batch. Nothing waits: it is closing. */
  async #untilDue(): Promise<void> {
    if (this.#waiting.length === 0 && !this.#closing.signal.aborted) {
      this.#arrival = Promise.withResolvers();
      await this.#arrival.promise;
    }
    if (this.#waiting.length < BATCH) await pause(LINGER_MS, this.#closing.signal);
  }

  /** Puts back what the queue did not accept, in front; whether there was any. */
  #takeBack(sent: readonly Completion[], results: readonly SendResult[]): boolean {
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
    this.#ports.log.warn("the queue did not accept completions: they are sent again", {
      refused: refused.length,
      waiting: this.#waiting.length,
      reason,
    });
    this.#makeRoom();
    return true;
  }

  /** A hundredth of the room at a time: taking from the front of a long list is not for every event. */
  #makeRoom(): void {
    const excess = this.#waiting.length - this.#capacity;
    if (excess <= 0) return;
    const dropped = this.#waiting.splice(0, Math.max(excess, Math.ceil(this.#capacity / 100))).length;
    this.#ports.tally.dropped += dropped;
    this.#ports.log.error("completions are given up for want of room: the reconciler finds them", {
      dropped,
    });
  }

  /** Closing ends a pause, and makes those that follow short. */
  #pauseAfter(failures: number): Promise<void> {
    const { signal } = this.#closing;
    return signal.aborted
      ? pause(FIRST_PAUSE_MS)
      : pause(growingPause(failures, FIRST_PAUSE_MS, LONGEST_PAUSE_MS), signal);
  }
}
