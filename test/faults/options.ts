import { Command, InvalidArgumentError, Option } from "commander";
import { parseArguments } from "#local/command-line.ts";
import type { Scale } from "#test/faults/case.ts";

/** The options of `npm run test:faults`. */
export interface FaultOptions {
  readonly scale: Scale;
  /** The seed of the first case; each further case adds 1. */
  readonly seed: number;
  /** The names of the kinds to run. */
  readonly only: readonly string[];
  /** Cases of each kind; undefined for the number that the scale sets. */
  readonly cases: number | undefined;
}

export type ParsedOptions =
  | { readonly kind: "run"; readonly options: FaultOptions }
  /** The help was printed, or an error about the arguments. */
  | { readonly kind: "done"; readonly exitCode: 0 | 2 };

const MAX_SEED = 999_999_999;

/** Parses the arguments. `anySeed` supplies the seed if none is given. */
export function parseOptions(
  args: readonly string[],
  kinds: readonly string[],
  anySeed: () => number,
  write: { readonly out: (text: string) => void; readonly err: (text: string) => void },
): ParsedOptions {
  const command = new Command("npm run test:faults --")
    .description(
      "Injects faults into the built functions, Valkey and the queue, and compares the result with a model.\n" +
        "The last line of standard output is JSON. The exit status is 1 if anything was lost, wrongly skipped,\n" +
        "duplicated or left inconsistent, if a case could not be run, or if a run of all cases missed an injection point.",
    )
    .option("--quick", "run fewer cases of every kind")
    .addOption(
      new Option("--only <kind...>", "run only these kinds").choices([...kinds]).default([...kinds], "all"),
    )
    .option("--seed <number>", "seed of the first case; each further case adds 1", integerUpTo(MAX_SEED))
    .option("--cases <number>", "number of cases of each kind", integerUpTo(MAX_SEED));
  const exitCode = parseArguments(command, args, write.out, write.err);
  if (exitCode !== undefined) return { kind: "done", exitCode };
  const { quick, only, seed, cases } = command.opts<{
    quick?: true;
    only: string[];
    seed?: number;
    cases?: number;
  }>();
  const scale = quick === true ? "quick" : "full";
  return { kind: "run", options: { scale, seed: seed ?? anySeed(), only, cases } };
}

function integerUpTo(max: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,9}$/.test(text) ? Number(text) : Number.NaN;
    if (value >= 1 && value <= max) return value;
    throw new InvalidArgumentError(`Expected an integer from 1 to ${max}.`);
  };
}
