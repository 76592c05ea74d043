import { Command, CommanderError, InvalidArgumentError, Option } from "commander";

/** What `npm run invoke` was asked to do. */
export interface InvokeOptions {
  readonly functionName: string;
  /** A file with one event in JSON; `-` is standard input. */
  readonly eventFile: string;
  /** `auto`: AWS's runtime client where it is installed, else our own. */
  readonly runtime: "auto" | "aws" | "own";
  readonly timeoutSeconds: number;
}

export type ParsedInvocation =
  | { readonly kind: "invoke"; readonly options: InvokeOptions }
  /** Help was asked for and shown, or the arguments are wrong and that was said. */
  | { readonly kind: "done"; readonly exitCode: 0 | 2 };

/** As the functions are deployed (serverless.yml); more than 900 seconds Lambda does not give. */
const TIMEOUTS: Readonly<Record<string, number>> = { reconcile: 50, redrive: 300, provision: 60 };
const TIMEOUT_SECONDS = { preset: 30, most: 900 };
const EXAMPLES = `
Your shell's variables are the function's: VALKEY_URL, COMPLETIONS_QUEUE_URL, … (README.md, "Configuration").

  VALKEY_URL=redis://127.0.0.1:6379 COMPLETIONS_QUEUE_URL=http://127.0.0.1:4566/000000000000/completions \\
    npm run --silent invoke -- dispatch local/events/dispatch.json
  echo '{"all": true, "dry_run": true}' | npm run --silent invoke -- redrive -

Exit status: 0 when the function answered, 1 when it threw, ran too long or died, 2 when the arguments or the event
are wrong.`;

/** Reads the arguments that follow `npm run invoke --`. `write` gets the help, `writeError` what is wrong. */
export function parseInvocation(
  args: readonly string[],
  write: (text: string) => void,
  writeError: (text: string) => void,
): ParsedInvocation {
  const command = new Command("npm run invoke --")
    .description(
      "Invokes one built function with one event. Its answer is on standard output, its logs on standard error.",
    )
    .argument("<function>", "dispatch, reconcile, redrive or provision")
    .argument("<event>", "a file with the event in JSON, or - for standard input; local/events has examples")
    .addOption(
      new Option("--runtime <runtime>", "AWS's runtime client for Node, or a few lines of ours")
        .choices(["auto", "aws", "own"])
        .default("auto", "aws where it is installed"),
    )
    .option("--timeout <seconds>", "the function's own unless given", parseTimeout)
    .addHelpText("after", EXAMPLES)
    .allowExcessArguments(false)
    .exitOverride()
    .configureOutput({ writeOut: write, writeErr: writeError });
  try {
    command.parse(args, { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return { kind: "done", exitCode: error.exitCode === 0 ? 0 : 2 };
  }
  const [functionName = "", eventFile = ""] = command.args;
  const { runtime, timeout = TIMEOUTS[functionName] ?? TIMEOUT_SECONDS.preset } = command.opts<{
    runtime: InvokeOptions["runtime"];
    timeout?: number;
  }>();
  return { kind: "invoke", options: { functionName, eventFile, runtime, timeoutSeconds: timeout } };
}

function parseTimeout(text: string): number {
  const seconds = /^\d{1,3}$/.test(text) ? Number(text) : 0;
  if (seconds >= 1 && seconds <= TIMEOUT_SECONDS.most) return seconds;
  throw new InvalidArgumentError(`It takes a whole number from 1 to ${TIMEOUT_SECONDS.most}.`);
}
