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

/** The redrive function's event, checked. */
export type RequestEvent = Readonly<Record<string, unknown>>;

const SECONDS = { s: 1, m: 60, h: 3_600, d: 86_400 } as const;
const DURATION = /^(\d{1,9})([smhd]?)$/;
/** What the event's properties are called here, for errors. */
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
    .description("Replays dead letters: they go back to the completions queue. Ctrl-C stops it cleanly.")
    .option("--all", "the whole dead-letter queue")
    .addOption(
      new Option("--error-code <code>", 'only this code; "none" for messages without one; may be repeated')
        // commander hands over what came before.
        .argParser((code: string, before: readonly string[] | undefined) => [...(before ?? []), code]),
    )
    .option("--flow <id>", "only messages of this flow")
    .option("--older-than <age>", "only messages older than this: 90s, 15m, 2h, 3d", parseDuration)
    .option("--younger-than <age>", "only messages younger than this", parseDuration)
    .option(
      "--rate <n>",
      `messages per second, ${RATE.least} to ${RATE.most} (default ${RATE.preset})`,
      Number,
    )
    .option("--dry-run", "only count")
    .addOption(new Option("--method <method>", "how messages are moved (default auto)").choices(METHODS))
    .option("--function <name>", "let the deployed redrive function do it, slice by slice")
    .option("--from <url>", "the dead-letter queue (default: DEAD_LETTER_QUEUE_URL)")
    .option("--to <url>", "the queue that they go back to (default: COMPLETIONS_QUEUE_URL)")
    .option("--max-replays <n>", "replays after which a message stays (default: MAX_REPLAYS, or 5)")
    .option("--json", "one line of JSON on standard output")
    .allowExcessArguments(false);
}

/** The event that the options ask for. Throws an InvalidRequestError whose errors name the options. */
export function requestOf(options: RedriveOptions): RequestEvent {
  const given: RequestEvent = {
    all: options.all,
    error_code: options.errorCode,
    flow: options.flow,
    older_than_seconds: options.olderThan,
    younger_than_seconds: options.youngerThan,
    rate: options.rate,
    dry_run: options.dryRun,
    method: options.method,
  };
  const event = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  const errors = [...faultsOf(event), ...localErrors(options)];
  if (errors.length > 0) throw new InvalidRequestError(errors);
  return event;
}

/** The function has queues and a limit of its own. */
function localErrors(options: RedriveOptions): string[] {
  if (options.function === undefined) return [];
  return (["from", "to", "maxReplays"] as const)
    .filter((name) => options[name] !== undefined)
    .map((name) => {
      const flag = name === "maxReplays" ? "--max-replays" : `--${name}`;
      return `${flag} does not go with --function, which has its own: leave it out`;
    });
}

function faultsOf(event: RequestEvent): string[] {
  try {
    parseRequest(event);
    return [];
  } catch (error) {
    if (!(error instanceof InvalidRequestError)) throw error;
    return error.errors.map((fault) =>
      fault.replace(/"(\w+)"(?:: true)?/g, (text, name: string) => FLAGS[name] ?? text),
    );
  }
}

function parseDuration(text: string): number {
  const [, count, unit] = DURATION.exec(text) ?? [];
  if (count === undefined) throw new InvalidArgumentError("Give a whole number and s, m, h or d, like 15m.");
  return Number(count) * (unit === "m" || unit === "h" || unit === "d" ? SECONDS[unit] : SECONDS.s);
}
