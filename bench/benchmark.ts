import type { Core } from "#bench/built-core.ts";
import type { Row } from "#bench/report.ts";

export interface BenchContext {
  readonly core: Core;
  /** Small sizes, few rounds: end states and round trips are checked, and no time is judged. */
  readonly quick: boolean;
  /** Tells whoever waits what is under way. */
  readonly note: (text: string) => void;
}

export interface Benchmark {
  readonly name: string;
  readonly measured: string;
  readonly notShown: string;
  run(context: BenchContext): Promise<Row[]>;
}

/** Something is not as it must be after a run: what was measured is worth nothing. */
export class WrongEndError extends Error {
  override readonly name = "WrongEndError";
}

export function expectEqual(what: string, actual: unknown, expected: unknown): void {
  if (actual !== expected) throw new WrongEndError(`${what}: ${String(actual)}, not ${String(expected)}`);
}
