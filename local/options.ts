import { Command, CommanderError, Option } from "commander";

/** What `npm start` was asked to do. */
export interface StartOptions {
  /** Undefined: the project's own example. */
  readonly workflow: string | undefined;
  /** Tasks that are to fail. Undefined: none, or the example's own. */
  readonly fail: readonly string[] | undefined;
  readonly json: boolean;
}

export type ParsedOptions =
  | { readonly kind: "run"; readonly options: StartOptions }
  /** Help was asked for and shown, or the arguments are wrong and that was said. */
  | { readonly kind: "done"; readonly exitCode: 0 | 2 };

/** Reads the arguments that follow `npm start --`. `write` gets the help, `writeError` what is wrong. */
export function parseOptions(
  args: readonly string[],
  write: (text: string) => void,
  writeError: (text: string) => void,
): ParsedOptions {
  const command = new Command("npm start --")
    .description(
      "Runs a workflow to its end on this machine: Valkey, a queue, workers and the built functions.",
    )
    .option(
      "--workflow <file>",
      "a workflow in Sluice's JSON or in WfFormat 1.5; without it, an example runs",
    )
    .addOption(
      new Option("--fail <task>", "a task that is to fail; may be given several times").argParser(
        (task: string, previous: readonly string[] | undefined) => [...(previous ?? []), task],
      ),
    )
    .option("--json", "end with one line of JSON on standard output; everything else goes to standard error")
    .allowExcessArguments(false)
    .exitOverride()
    .configureOutput({ writeOut: write, writeErr: writeError });
  try {
    command.parse(args, { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return { kind: "done", exitCode: error.exitCode === 0 ? 0 : 2 };
  }
  const { workflow, fail, json } = command.opts<{ workflow?: string; fail?: string[]; json?: boolean }>();
  return { kind: "run", options: { workflow, fail, json: json ?? false } };
}
