import type { Pipelines, ValkeyCommand, ValkeyResult } from "#shared/contract/command.ts";
import { OutOfTimeError } from "#shared/errors.ts";

/** The longest delay of a timer in Node. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;
/**
 * How long after the deadline a call may still end, in milliseconds. Children that are published just before the deadline
 * can then be marked. The margin that the handler reserves includes this time.
 */
const GRACE_MS = 250;

/**
 * A Valkey client for one invocation. Its calls end shortly after the deadline at the latest.
 *
 * If the replies have not arrived by then, the commands fail. The server may still run them: a redelivery reads what they
 * changed. With `hasTimeFor`, the dispatcher defers a step that would not finish in time.
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

  /** Whether the remaining time is longer than this many round trips, each as slow as the slowest so far. */
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

  /** Returns the result of `run`. Rejects with an OutOfTimeError if it takes until shortly after the deadline. */
  race<T>(run: () => Promise<T>): Promise<T> {
    return raceDeadline(run, this.#now, this.#deadlineMs + GRACE_MS);
  }
}

/**
 * Returns the result of `run`. Rejects with an OutOfTimeError if `run` takes until `deadlineMs` (milliseconds since the
 * epoch). After the deadline, `run` is not called.
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
