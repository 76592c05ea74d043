import { setTimeout as sleep } from "node:timers/promises";

/** The clock of a replay. Tests replace it. */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number;
  /** Resolves after `ms` milliseconds, or when the signal aborts. */
  pause(ms: number, signal: AbortSignal): Promise<void>;
}

export const SYSTEM_CLOCK: Clock = {
  now: Date.now,
  pause: async (ms, signal) => {
    try {
      await sleep(ms, undefined, { signal });
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  },
};

/** When a slice of a replay must end. */
export interface Limits {
  /** Milliseconds since the epoch; infinity for no deadline. */
  readonly deadlineMs: number;
  /** Aborts when the operator stops the replay. */
  readonly signal: AbortSignal;
}

const MAX_BATCH_SIZE = 50;

/**
 * Limits the number of messages per second. The rate counts from the first message: a late send does not allow the next
 * ones to catch up.
 */
export class RateLimiter {
  readonly #clock: Clock;
  readonly #rate: number;
  #nextAt: number;

  /** `rate` in messages per second; `nextAt` is the earliest time of the first, in milliseconds since the epoch. */
  constructor(clock: Clock, rate: number, nextAt: number) {
    this.#clock = clock;
    this.#rate = rate;
    this.#nextAt = nextAt;
  }

  /** Messages to send at once: those of a tenth of a second, so that the rate holds within each second too. */
  get batchSize(): number {
    return Math.min(MAX_BATCH_SIZE, Math.max(1, Math.floor(this.#rate / 10)));
  }

  /** The earliest time of the next message: a new RateLimiter continues from it. */
  get nextAt(): number {
    return this.#nextAt;
  }

  /** Waits until `count` messages may be sent. Returns false if the slice must end first. */
  async acquire(count: number, { deadlineMs, signal }: Limits): Promise<boolean> {
    const now = this.#clock.now();
    const at = Math.max(now, this.#nextAt);
    if (signal.aborted || at >= deadlineMs) return false;
    if (at > now) await this.#clock.pause(at - now, signal);
    if (signal.aborted) return false;
    this.#nextAt = at + (count * 1_000) / this.#rate;
    return true;
  }
}
