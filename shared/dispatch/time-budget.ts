import type { Pipelines, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import { OutOfTimeError } from "#shared/errors.ts";

/** A timer cannot be set for longer. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;
/**
 * How long after the deadline a call may still end, in milliseconds: enough to mark what was published just before it.
 * Part of the margin that the handler reserves.
 */
const GRACE_MS = 250;

/**
 * The time of one invocation, as a client whose calls end by the deadline and a short grace.
 *
 * A reply that is not there by then becomes a failure of its commands. The server may still run them: a
 * redelivery finds out what it did. `hasTimeFor` lets a step that would not finish be deferred before it begins.
 */
export class TimeBudget implements Pipelines {
  readonly #valkey: Pipelines;
  readonly #now: () => number;
  readonly #deadlineMs: number;
  #slowestMs = 0;

  /** `now` and `deadlineMs` are milliseconds since the epoch. */
  constructor(valkey: Pipelines, now: () => number, deadlineMs: number) {
    this.#valkey = valkey;
    this.#now = now;
    this.#deadlineMs = deadlineMs;
  }

  /** Whether this many round trips fit into the time left, each as slow as the slowest so far. */
  hasTimeFor(roundTrips: number): boolean {
    return this.#now() + roundTrips * this.#slowestMs < this.#deadlineMs;
  }

  async pipelined(commands: readonly ValkeyCommand[]): Promise<ValkeyResult[]> {
    if (commands.length === 0) return [];
    const begunMs = this.#now();
    try {
      return await this.race(() => this.#valkey.pipelined(commands));
    } catch (error) {
      if (!(error instanceof OutOfTimeError)) throw error;
      return commands.map(() => ({ ok: false, error }));
    } finally {
      this.#slowestMs = Math.max(this.#slowestMs, this.#now() - begunMs);
    }
  }

  /** The result of `run`, or an OutOfTimeError at the deadline. */
  race<T>(run: () => Promise<T>): Promise<T> {
    return raceDeadline(run, this.#now, this.#deadlineMs + GRACE_MS);
  }
}

/**
 * The result of `run`. Rejects with an OutOfTimeError when it is not there by `deadlineMs` (milliseconds since the
 * epoch); past the deadline, `run` is not called.
 */
export async function raceDeadline<T>(
  run: () => Promise<T>,
  now: () => number,
  deadlineMs: number,
): Promise<T> {
  const leftMs = deadlineMs - now();
  if (leftMs > LONGEST_TIMER_MS) return run();
  const error = new OutOfTimeError("no reply before the invocation's deadline");
  if (leftMs <= 0) throw error;
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(error), leftMs);
  try {
    return await Promise.race([run(), late]);
  } finally {
    clearTimeout(timer);
  }
}
