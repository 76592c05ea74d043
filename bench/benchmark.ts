import type { Core } from "#bench/built-core.ts";
import type { Row } from "#bench/report.ts";

export interface BenchContext {
  readonly core: Core;
  /** Small sizes and few rounds: checks end states and round trips, and has no goals for times. */
  readonly quick: boolean;
  /** Prints progress. */
  readonly note: (text: string) => void;
}

export interface Benchmark {
  readonly name: string;
  readonly measured: string;
  readonly notShown: string;
  run(context: BenchContext): Promise<Row[]>;
}

/** The state after a run is wrong, so its measurements are invalid. */
export class UnexpectedResultError extends Error {
  override readonly name = "UnexpectedResultError";
}

export function expectEqual(what: string, actual: unknown, expected: unknown): void {
  if (actual !== expected)
    throw new UnexpectedResultError(`${what}: ${String(actual)}, expected ${String(expected)}`);
}
