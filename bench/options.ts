import { Command, Option } from "commander";
import { parseArguments } from "#local/command-line.ts";

export interface BenchOptions {
  /** Names of benchmarks; empty for all. */
  readonly only: readonly string[];
  readonly quick: boolean;
  readonly json: boolean;
}

export type ParsedOptions =
  | { readonly kind: "run"; readonly options: BenchOptions }
  /** The help text or an error message has been written. */
  | { readonly kind: "done"; readonly exitCode: 0 | 2 };

/** Parses the arguments that follow `npm run bench --`. */
export function parseOptions(args: readonly string[], names: readonly string[]): ParsedOptions {
  const command = new Command("npm run bench --")
    .description(
      "Measures the built code on a real Valkey, compared with a sequential dispatcher and with lower bounds. Exit " +
        "status: 0, also when a goal is not met; 1 when an end state was wrong or a benchmark failed; 2 when the " +
        "arguments are invalid.",
    )
    .addOption(
      new Option("--only <name>", `run only this benchmark (${names.join(", ")}); may be repeated`)
        .choices(names)
        .argParser((name: string, previous: readonly string[] | undefined) => {
          if (!names.includes(name)) command.error(`error: there is no benchmark "${name}"`, { exitCode: 2 });
          return [...(previous ?? []), name];
        }),
    )
    .option(
      "--quick",
      "small sizes, in under a minute: checks end states and round trips, without goals for times",
    )
    .option("--json", "print one line of JSON to standard output; everything else goes to standard error");
  const exitCode = parseArguments(command, args);
  if (exitCode !== undefined) return { kind: "done", exitCode };
  const { only = [], quick = false, json = false } = command.opts<Partial<BenchOptions>>();
  return { kind: "run", options: { only, quick, json } };
}
