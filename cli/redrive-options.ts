import { type Command, InvalidArgumentError, Option } from "commander";
import { InvalidRequestError } from "#shared/errors.ts";
import { METHODS, parseRequest, RATE } from "#shared/redrive/request.ts";

export interface RedriveOptions {
  readonly all?: true;
  readonly errorCode?: readonly string[];
  readonly flow?: string;
  /** Seconds. */
  readonly olderThan?: number;
  readonly youngerThan?: number;
  readonly rate?: number;
  readonly dryRun?: true;
  readonly method?: string;
  readonly function?: string;
  readonly from?: string;
  readonly to?: string;
  readonly maxReplays?: string;
  readonly json?: true;
}

/** A valid event of the redrive function. */
export type RequestEvent = Readonly<Record<string, unknown>>;

const SECONDS = { s: 1, m: 60, h: 3_600, d: 86_400 } as const;
const DURATION = /^(\d{1,9})([smhd]?)$/;
/** Maps properties of the event to options, for error messages. */
const FLAGS: Readonly<Record<string, string>> = {
  all: "--all",
  error_code: "--error-code",
  flow: "--flow",
  older_than_seconds: "--older-than",
  younger_than_seconds: "--younger-than",
  rate: "--rate",
  dry_run: "--dry-run",
  method: "--method",
};

export function redriveOptions(command: Command): Command {
  return command
    .description("Replay dead letters: send them back to the completions queue. Ctrl-C stops cleanly.")
    .option("--all", "replay the whole dead-letter queue")
    .addOption(
      new Option(
        "--error-code <code>",
        'only messages with this error code, or "none" for messages without one; repeatable',
      )
        // commander passes the earlier values.
        .argParser((code: string, previous: readonly string[] | undefined) => [...(previous ?? []), code]),
    )
    .option("--flow <id>", "only messages of this flow")
    .option("--older-than <age>", "only messages older than this, e.g. 90s, 15m, 2h, 3d", parseDuration)
    .option("--younger-than <age>", "only messages younger than this", parseDuration)
    .option(
      "--rate <n>",
      `messages per second, ${RATE.min} to ${RATE.max} (default: ${RATE.defaultValue})`,
      Number,
    )
    .option("--dry-run", "count the messages without replaying them")
    .addOption(new Option("--method <method>", "how to move messages (default: auto)").choices(METHODS))
    .option("--function <name>", "run in the deployed redrive function, slice by slice")
    .option("--from <url>", "the dead-letter queue (default: DEAD_LETTER_QUEUE_URL)")
    .option("--to <url>", "the completions queue (default: COMPLETIONS_QUEUE_URL)")
    .option("--max-replays <n>", "leave messages that were replayed this often (default: MAX_REPLAYS, or 5)")
    .option("--json", "print the report as one line of JSON")
    .allowExcessArguments(false);
}

/** Converts the options to the event. Throws an InvalidRequestError whose errors name the options. */
export function requestOf(options: RedriveOptions): RequestEvent {
  const properties: RequestEvent = {
    all: options.all,
    error_code: options.errorCode,
    flow: options.flow,
    older_than_seconds: options.olderThan,
    younger_than_seconds: options.youngerThan,
    rate: options.rate,
    dry_run: options.dryRun,
    method: options.method,
  };
  const event = Object.fromEntries(Object.entries(properties).filter(([, value]) => value !== undefined));
  const errors = [...errorsOf(event), ...functionConflicts(options)];
  if (errors.length > 0) throw new InvalidRequestError(errors);
  return event;
}

/** The deployed function has its own queues and its own limit. */
function functionConflicts(options: RedriveOptions): string[] {
  if (options.function === undefined) return [];
  return (["from", "to", "maxReplays"] as const)
    .filter((name) => options[name] !== undefined)
    .map((name) => {
      const flag = name === "maxReplays" ? "--max-replays" : `--${name}`;
      return `${flag} cannot be combined with --function, which has its own setting: omit it`;
    });
}

function errorsOf(event: RequestEvent): string[] {
  try {
    parseRequest(event);
    return [];
  } catch (error) {
    if (!(error instanceof InvalidRequestError)) throw error;
    return error.errors.map((message) =>
      message.replace(/"(\w+)"(?:: true)?/g, (text, name: string) => FLAGS[name] ?? text),
    );
  }
}

function parseDuration(text: string): number {
  const [, count, unit] = DURATION.exec(text) ?? [];
  if (count === undefined)
    throw new InvalidArgumentError("Expected a whole number and a unit (s, m, h or d), e.g. 15m.");
  return Number(count) * (unit === "m" || unit === "h" || unit === "d" ? SECONDS[unit] : SECONDS.s);
}
