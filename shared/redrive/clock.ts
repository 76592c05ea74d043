import { setTimeout as sleep } from "node:timers/promises";

/** Time, as far as a replay needs it. */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number;
  /** Resolves after so long, or as soon as the signal aborts. */
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

/** When a slice of a replay has to end. */
export interface Limits {
  /** Milliseconds since the epoch; infinity for none. */
  readonly deadlineMs: number;
  /** Aborts when somebody wants it to stop. */
  readonly signal: AbortSignal;
}

/** The most messages that may go together. */
const MOST_TOGETHER = 50;

/**
 * Spreads messages over time: never more than the rate, counted from the first, however late the single sends are.
 */
export class Pacer {
  readonly #clock: Clock;
  readonly #rate: number;
  #nextAt: number;

  /** `rate` in messages per second; `nextAt` is when the first may go, in milliseconds since the epoch. */
  constructor(clock: Clock, rate: number, nextAt: number) {
    this.#clock = clock;
    this.#rate = rate;
    this.#nextAt = nextAt;
  }

  /** How many messages go together: a tenth of a second's, so that the rate holds within a second too. */
  get together(): number {
    return Math.min(MOST_TOGETHER, Math.max(1, Math.floor(this.#rate / 10)));
  }

  /** When the next message may go: what another pacer needs to go on from here. */
  get nextAt(): number {
    return this.#nextAt;
  }

  /** Waits until so many messages may go. False: it is time to end, and they may not. */
  async turn(count: number, { deadlineMs, signal }: Limits): Promise<boolean> {
    const now = this.#clock.now();
    const at = Math.max(now, this.#nextAt);
    if (signal.aborted || at >= deadlineMs) return false;
    if (at > now) await this.#clock.pause(at - now, signal);
    if (signal.aborted) return false;
    this.#nextAt = at + (count * 1_000) / this.#rate;
    return true;
  }
}
