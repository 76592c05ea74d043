import { type Command, CommanderError, Option } from "commander";

/**
 * Parses the arguments of a program. Returns undefined if they are valid, else the exit status: 0 after the help text, 2
 * after an error message. `write` receives the help text, `writeError` error messages; by default the standard streams.
 */
export function parseArguments(
  command: Command,
  args: readonly string[],
  write?: (text: string) => void,
  writeError?: (text: string) => void,
): 0 | 2 | undefined {
  command.allowExcessArguments(false).exitOverride();
  if (write !== undefined) command.configureOutput({ writeOut: write });
  if (writeError !== undefined) command.configureOutput({ writeErr: writeError });
  try {
    command.parse(args, { from: "user" });
    return undefined;
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return error.exitCode === 0 ? 0 : 2;
  }
}

/** The option `--runtime`, which selects the runtime of the functions. */
export function runtimeOption(choices: readonly string[]): Option {
  return new Option(
    "--runtime <runtime>",
    'function runtime: "own" (built-in) or "aws" (AWS Lambda runtime interface client)',
  ).choices(choices);
}
