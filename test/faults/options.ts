import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import type { Scale } from "#test/faults/case.ts";

/** What `npm run test:faults` was asked to do. */
export interface FaultOptions {
  readonly scale: Scale;
  /** The first case's seed; the others follow it. */
  readonly seed: number;
  /** Names of kinds. */
  readonly only: readonly string[];
  /** Cases of each kind; undefined: as many as the scale says. */
  readonly cases: number | undefined;
}

export type ParsedOptions =
  | { readonly kind: "run"; readonly options: FaultOptions }
  /** Help was asked for and shown, or the arguments are wrong and that was said. */
  | { readonly kind: "done"; readonly exitCode: 0 | 2 };

const MOST_SEED = 999_999_999;

/** Reads the arguments. `anySeed` gives the seed where none is asked for. */
export function parseOptions(
  args: readonly string[],
  kinds: readonly string[],
  anySeed: () => number,
  write: { readonly out: (text: string) => void; readonly err: (text: string) => void },
): ParsedOptions {
  const command = new Command("npm run test:faults --")
    .description(
      "Breaks the built functions, Valkey and the queue at named points, and compares what comes of it with a model.\n" +
        "The last line of standard output is JSON; the exit status is 1 when anything was lost, wrongly skipped or\n" +
        "duplicated, or when a case could not be run.",
    )
    .option("--quick", "fewer cases, of every kind")
    .addOption(
      new Option("--only <kind...>", "only cases of these kinds")
        .choices([...kinds])
        .default([...kinds], "all"),
    )
    .option(
      "--seed <number>",
      "the first case's seed; the case after it has the next number",
      wholeUpTo(MOST_SEED),
    )
    .option("--cases <number>", "how many cases of each kind", wholeUpTo(MOST_SEED))
    .allowExcessArguments(false)
    .exitOverride()
    .configureOutput({ writeOut: write.out, writeErr: write.err });
  try {
    command.parse(args, { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return { kind: "done", exitCode: error.exitCode === 0 ? 0 : 2 };
  }
  const { quick, only, seed, cases } = command.opts<{
    quick?: true;
    only: string[];
    seed?: number;
    cases?: number;
  }>();
  const scale = quick === true ? "quick" : "full";
  return { kind: "run", options: { scale, seed: seed ?? anySeed(), only, cases } };
}

function wholeUpTo(most: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
    if (value >= 1 && value <= most) return value;
    throw new InvalidArgumentError(`It takes a whole number from 1 to ${most}.`);
  };
}
