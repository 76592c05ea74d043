/** Reads environment variables. Problems are appended to `errors`, so that one error can list all of them. */

import { ConfigurationError } from "#shared/errors.ts";

/** Environment variables by name, such as `process.env`. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** Returns whether a variable is set and not empty. */
export function isSet(env: Environment, name: string): boolean {
  return (env[name] ?? "") !== "";
}

/**
 * Reads the configuration of a program with `read`, which appends problems to `errors`. Also checks the variables that
 * every program has: the log level and the endpoints of the AWS SDK. Throws one ConfigurationError that lists every
 * problem.
 *
 * @example
 * const { url } = readConfiguration(process.env, (errors) => ({ url: readQueueUrl(process.env, "QUEUE_URL", errors) }));
 */
export function readConfiguration<T>(env: Environment, read: (errors: string[]) => T): T {
  const errors: string[] = [];
  const config = read(errors);
  readLogLevel(env, errors);
  for (const name of ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS"]) {
    if (isSet(env, name)) readUrl(env, name, WEB, "https://host", errors);
  }
  if (errors.length > 0) throw new ConfigurationError(errors);
  return config;
}

/** The log levels of Powertools, from the most lines to none. */
export const LOG_LEVELS = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "CRITICAL", "SILENT"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];
/** The name of CRITICAL in Lambda's advanced logging controls. */
const FATAL = "FATAL";

/**
 * Reads the log level, in upper or lower case: `POWERTOOLS_LOG_LEVEL`, else `LOG_LEVEL`, and not below
 * `AWS_LAMBDA_LOG_LEVEL`, which Lambda sets and enforces. Returns undefined if none of them is set. An unknown value
 * is an error here: Powertools would log at INFO instead.
 */
export function readLogLevel(env: Environment, errors: string[]): LogLevel | undefined {
  const selected = readLevel(
    env,
    isSet(env, "POWERTOOLS_LOG_LEVEL") ? "POWERTOOLS_LOG_LEVEL" : "LOG_LEVEL",
    LOG_LEVELS,
    errors,
  );
  const enforced = readLevel(env, "AWS_LAMBDA_LOG_LEVEL", [...LOG_LEVELS, FATAL], errors);
  const least = enforced === FATAL ? "CRITICAL" : enforced;
  if (selected === undefined || least === undefined) return selected ?? least;
  return LOG_LEVELS.indexOf(selected) < LOG_LEVELS.indexOf(least) ? least : selected;
}

function readLevel<Level extends string>(
  env: Environment,
  name: string,
  levels: readonly Level[],
  errors: string[],
): Level | undefined {
  const text = env[name]?.trim() ?? "";
  if (text === "") return undefined;
  const level = levels.find((one) => one === text.toUpperCase());
  if (level === undefined) errors.push(`${name} is "${text}": expected one of ${levels.join(", ")}`);
  return level;
}

const WEB = ["http:", "https:"];
const QUEUE_EXAMPLE = "https://sqs.<region>.amazonaws.com/<account>/<queue>";

/** Reads the URL of an SQS queue, which must be a standard queue. */
export function readQueueUrl(env: Environment, name: string, errors: string[]): string {
  const before = errors.length;
  const url = readUrl(env, name, WEB, QUEUE_EXAMPLE, errors);
  if (errors.length > before) return url.href;
  if (/\.fifo\/*$/i.test(url.pathname)) {
    errors.push(
      `${name} names a FIFO queue: use a standard queue. Sluice delays single messages and sends no deduplication ids, ` +
        "which a FIFO queue refuses, and one message that fails would block all later ones of its flow",
    );
  } else if (/^\/*$/.test(url.pathname) || url.search !== "" || url.hash !== "") {
    errors.push(`${name} is not the URL of a queue: expected a URL like ${QUEUE_EXAMPLE}`);
  }
  return url.href;
}

/** Reads the two queues. Dead letters in the completions queue would be dispatched and dead-lettered for ever. */
export function readQueueUrls(
  env: Environment,
  errors: string[],
): { readonly completionsQueueUrl: string; readonly deadLetterQueueUrl: string } {
  const before = errors.length;
  const completionsQueueUrl = readQueueUrl(env, "COMPLETIONS_QUEUE_URL", errors);
  const deadLetterQueueUrl = readQueueUrl(env, "DEAD_LETTER_QUEUE_URL", errors);
  if (errors.length === before && completionsQueueUrl === deadLetterQueueUrl) {
    errors.push(
      "DEAD_LETTER_QUEUE_URL and COMPLETIONS_QUEUE_URL name the same queue: set them to different queues",
    );
  }
  return { completionsQueueUrl, deadLetterQueueUrl };
}

/**
 * Reads a required URL. `example` appears in the error for a missing one, `hint` in the error for one that does not
 * parse. Never puts the value in an error.
 */
export function readUrl(
  env: Environment,
  name: string,
  protocols: readonly string[],
  example: string,
  errors: string[],
  hint = "",
): URL {
  const text = env[name] ?? "";
  const url = URL.parse(text);
  if (url !== null && protocols.includes(url.protocol) && url.hostname !== "") return url;
  // The value may contain a password, and errors are logged: name only the variable.
  errors.push(
    text === ""
      ? `${name} is not set: expected a URL like ${example}`
      : `${name} is not a ${protocols.map((protocol) => `${protocol}//`).join(" or ")} URL with a host${hint}`,
  );
  return new URL("redis://unset");
}

/** Reads a required text that matches `form`. `expected` describes it in errors. */
export function readRequired(
  env: Environment,
  name: string,
  form: RegExp,
  expected: string,
  errors: string[],
): string {
  const text = env[name] ?? "";
  if (text === "") errors.push(`${name} is not set: expected ${expected}`);
  else if (!form.test(text)) errors.push(`${name} is "${text}": expected ${expected}`);
  return text;
}

/** Reads one of `choices`, or returns `defaultValue` if the variable is not set. */
export function readChoice<Choice extends string>(
  env: Environment,
  name: string,
  choices: readonly Choice[],
  defaultValue: Choice,
  errors: string[],
): Choice {
  const text = env[name] ?? "";
  if (text === "") return defaultValue;
  const chosen = choices.find((choice) => choice === text);
  if (chosen === undefined) errors.push(`${name} is "${text}": expected one of ${choices.join(", ")}`);
  return chosen ?? defaultValue;
}

/** Reads an integer from `min` to `max`, or returns `defaultValue` if the variable is not set. */
export function readInteger(
  env: Environment,
  name: string,
  min: number,
  max: number,
  defaultValue: number,
  errors: string[],
): number {
  const text = env[name] ?? "";
  if (text === "") return defaultValue;
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= min && value <= max) return value;
  errors.push(`${name} is "${text}": expected an integer from ${min} to ${max}`);
  return defaultValue;
}
