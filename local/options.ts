import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { DEFAULT_QUEUE, isQueueChoice, QUEUE_CHOICES, type QueueChoice } from "#local/queue-choice.ts";

/** What `npm start` was asked to do. */
export interface StartOptions {
  /** Undefined: the project's own example. */
  readonly workflow: string | undefined;
  /** Tasks that are to fail. Undefined: none, or the example's own. */
  readonly fail: readonly string[] | undefined;
  readonly json: boolean;
  readonly sqs: QueueChoice;
  readonly runtime: "own" | "aws";
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
    .addOption(
      new Option("--sqs <server>", `which SQS: ${QUEUE_CHOICES.join(", ")}, or the URL of one that runs`)
        .argParser(parseQueueChoice)
        .default(DEFAULT_QUEUE),
    )
    .addOption(
      new Option(
        "--runtime <runtime>",
        "what the functions run on: a few lines of ours, or AWS's runtime client",
      )
        .choices(["own", "aws"])
        .default("own"),
    )
    .addHelpText(
      "after",
      "\n`npm run local:aws` is the same with --sqs auto --runtime aws: docs/rehearsal.md",
    )
    .allowExcessArguments(false)
    .exitOverride()
    .configureOutput({ writeOut: write, writeErr: writeError });
  try {
    command.parse(args, { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return { kind: "done", exitCode: error.exitCode === 0 ? 0 : 2 };
  }
  const { workflow, fail, json, sqs, runtime } = command.opts<GivenOptions>();
  return { kind: "run", options: { workflow, fail, json: json ?? false, sqs, runtime } };
}

/** What commander makes of the arguments. */
interface GivenOptions {
  readonly workflow?: string;
  readonly fail?: string[];
  readonly json?: boolean;
  readonly sqs: QueueChoice;
  readonly runtime: "own" | "aws";
}

function parseQueueChoice(text: string): QueueChoice {
  if (isQueueChoice(text)) return text;
  throw new InvalidArgumentError(`It takes ${QUEUE_CHOICES.join(", ")}, or an http:// or https:// URL.`);
}
