import { Command, CommanderError, Option } from "commander";

export interface BenchOptions {
  /** Empty: all. */
  readonly only: readonly string[];
  readonly quick: boolean;
  readonly json: boolean;
}

export type ParsedOptions =
  | { readonly kind: "run"; readonly options: BenchOptions }
  /** Help was asked for and shown, or the arguments are wrong and that was said. */
  | { readonly kind: "done"; readonly exitCode: 0 | 2 };

/** Reads the arguments that follow `npm run bench --`. */
export function parseOptions(args: readonly string[], names: readonly string[]): ParsedOptions {
  const command = new Command("npm run bench --")
    .description("Measures Sluice on a real Valkey: the built code, against other ways and against bounds.")
    .addOption(
      new Option("--only <name>", `run this one (${names.join(", ")}); may be given several times`)
        .choices(names)
        .argParser((name: string, previous: readonly string[] | undefined) => {
          if (!names.includes(name)) command.error(`error: there is no benchmark "${name}"`, { exitCode: 2 });
          return [...(previous ?? []), name];
        }),
    )
    .option("--quick", "small sizes, in under a minute: checks end states and round trips, judges no times")
    .option("--json", "end with one line of JSON on standard output; everything else goes to standard error")
    .allowExcessArguments(false)
    .exitOverride();
  try {
    command.parse(args, { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return { kind: "done", exitCode: error.exitCode === 0 ? 0 : 2 };
  }
  const { only = [], quick = false, json = false } = command.opts<Partial<BenchOptions>>();
  return { kind: "run", options: { only, quick, json } };
}
