import { Command, InvalidArgumentError, Option } from "commander";
import { parseArguments, runtimeOption } from "#local/command-line.ts";
import { DEFAULT_QUEUE, isQueueChoice, QUEUE_CHOICES, type QueueChoice } from "#local/queue-choice.ts";

/** The parsed arguments of `npm start`. */
export interface StartOptions {
  /** The path of a workflow file. Undefined: the example. */
  readonly workflow: string | undefined;
  /** Ids of tasks that fail. Undefined: none, or those of the example. */
  readonly fail: readonly string[] | undefined;
  readonly json: boolean;
  readonly sqs: QueueChoice;
  readonly runtime: "own" | "aws";
  readonly dispatch: "inline" | "queue";
}

export type ParsedOptions =
  | { readonly kind: "run"; readonly options: StartOptions }
  /** The help text or an error message has been written. */
  | { readonly kind: "done"; readonly exitCode: 0 | 2 };

/** Parses the arguments that follow `npm start --`. `write` receives the help text, `writeError` error messages. */
export function parseOptions(
  args: readonly string[],
  write: (text: string) => void,
  writeError: (text: string) => void,
): ParsedOptions {
  const command = new Command("npm start --")
    .description(
      "Runs a workflow on this machine with Valkey, a queue, workers and the built functions, and shows its tasks.",
    )
    .option("--workflow <file>", "a workflow in Sluice's JSON format or in WfFormat (default: an example)")
    .addOption(
      new Option("--fail <task>", "the id of a task that fails; may be repeated").argParser(
        (task: string, previous: readonly string[] | undefined) => [...(previous ?? []), task],
      ),
    )
    .option("--json", "print one line of JSON to standard output; everything else goes to standard error")
    .addOption(
      new Option("--sqs <server>", `queue server: ${QUEUE_CHOICES.join(", ")}, or the URL of a running SQS`)
        .argParser(parseQueueChoice)
        .default(DEFAULT_QUEUE),
    )
    .addOption(runtimeOption(["own", "aws"]).default("own"))
    .addOption(
      new Option(
        "--dispatch <where>",
        'what updates the tasks that depend on an ended one: "inline" (the worker) or "queue" (the dispatch function)',
      )
        .choices(["inline", "queue"])
        .default("inline"),
    )
    .addHelpText(
      "after",
      "\nExit status: 0 when all tasks ended, 1 when some did not or the stack failed, 2 when the arguments or the workflow\n" +
        "are invalid, 130 after SIGINT, 143 after SIGTERM.\n\n" +
        "`npm run local:aws` adds --sqs auto --runtime aws --dispatch queue: see docs/rehearsal.md",
    );
  const exitCode = parseArguments(command, args, write, writeError);
  if (exitCode !== undefined) return { kind: "done", exitCode };
  const { workflow, fail, json, sqs, runtime, dispatch } = command.opts<CommanderOptions>();
  return { kind: "run", options: { workflow, fail, json: json ?? false, sqs, runtime, dispatch } };
}

/** The options as commander parses them. */
interface CommanderOptions {
  readonly workflow?: string;
  readonly fail?: string[];
  readonly json?: boolean;
  readonly sqs: QueueChoice;
  readonly runtime: "own" | "aws";
  readonly dispatch: "inline" | "queue";
}

function parseQueueChoice(text: string): QueueChoice {
  if (isQueueChoice(text)) return text;
  throw new InvalidArgumentError(`Expected ${QUEUE_CHOICES.join(", ")}, or an http:// or https:// URL.`);
}
