import { Command, InvalidArgumentError } from "commander";
import { parseArguments, runtimeOption } from "#local/command-line.ts";

/** The parsed arguments of `npm run invoke`. */
export interface InvokeOptions {
  readonly functionName: string;
  /** A JSON file with one event; `-` is standard input. */
  readonly eventFile: string;
  /** `auto` is AWS's runtime client if it is installed, else the built-in runtime. */
  readonly runtime: "auto" | "aws" | "own";
  readonly timeoutSeconds: number;
}

export type ParsedInvocation =
  | { readonly kind: "invoke"; readonly options: InvokeOptions }
  /** The help text or an error message has been written. */
  | { readonly kind: "done"; readonly exitCode: 0 | 2 };

/** The timeouts of serverless.yml, in seconds. Lambda's maximum is 900. */
const TIMEOUTS: Readonly<Record<string, number>> = {
  reconcile: 57,
  redrive: 300,
  provision: 60,
  "operate-read": 60,
  "operate-write": 60,
};
const TIMEOUT_SECONDS = { defaultValue: 30, max: 900 };
const EXAMPLES = `
The function gets the environment variables of your shell: VALKEY_URL, COMPLETIONS_QUEUE_URL and so on.

  VALKEY_URL=redis://127.0.0.1:6379 COMPLETIONS_QUEUE_URL=http://127.0.0.1:4566/000000000000/completions \\
    npm run --silent invoke -- dispatch local/events/dispatch.json
  echo '{"all": true, "dry_run": true}' | npm run --silent invoke -- redrive -

Exit status: 0 when the function responded, 1 when it threw, timed out or died, 2 when the arguments or the event are
invalid, 130 after SIGINT, 143 after SIGTERM.`;

/** Parses the arguments that follow `npm run invoke --`. `write` receives the help text, `writeError` error messages. */
export function parseInvocation(
  args: readonly string[],
  write: (text: string) => void,
  writeError: (text: string) => void,
): ParsedInvocation {
  const command = new Command("npm run invoke --")
    .description(
      "Invokes a built function with one event. Its response goes to standard output, its logs to standard error.",
    )
    .argument("<function>", "dispatch, reconcile, redrive, operate-read, operate-write or provision")
    .argument("<event>", "a JSON file with the event, or - for standard input; see local/events for examples")
    .addOption(runtimeOption(["auto", "aws", "own"]).default("auto", "aws if it is installed"))
    .option("--timeout <seconds>", "timeout in seconds (default: the one of serverless.yml)", parseTimeout)
    .addHelpText("after", EXAMPLES);
  const exitCode = parseArguments(command, args, write, writeError);
  if (exitCode !== undefined) return { kind: "done", exitCode };
  const [functionName = "", eventFile = ""] = command.args;
  const { runtime, timeout = TIMEOUTS[functionName] ?? TIMEOUT_SECONDS.defaultValue } = command.opts<{
    runtime: InvokeOptions["runtime"];
    timeout?: number;
  }>();
  return { kind: "invoke", options: { functionName, eventFile, runtime, timeoutSeconds: timeout } };
}

function parseTimeout(text: string): number {
  const seconds = /^\d{1,3}$/.test(text) ? Number(text) : 0;
  if (seconds >= 1 && seconds <= TIMEOUT_SECONDS.max) return seconds;
  throw new InvalidArgumentError(`Expected a whole number from 1 to ${TIMEOUT_SECONDS.max}.`);
}
