/** Parses and validates the event of the redrive function. */

import { parseFlowId } from "#shared/contract/ids.ts";
import { InvalidRequestError } from "#shared/errors.ts";
import { parseContinuation } from "#shared/redrive/continuation.ts";
import { type Filter, selectsEverything } from "#shared/redrive/filter.ts";
import type { Continuation } from "#shared/redrive/report.ts";

export const METHODS = ["auto", "receive", "move_task"] as const;
export type Method = (typeof METHODS)[number];

/** Messages per second. The maximum is that of SQS move tasks. */
export const RATE = { min: 0.1, defaultValue: 50, max: 500 } as const;
/** Lambda's maximum timeout. */
const MAX_SLICE_SECONDS = 900;
/** The maximum retention of SQS. */
const MAX_AGE_SECONDS = 1_209_600;

export interface RedriveRequest {
  /** Messages per second. */
  readonly rate: number;
  readonly filter: Filter;
  readonly dryRun: boolean;
  /** `auto` uses an SQS move task if it has the same effect, otherwise `receive`: receive, send and delete. */
  readonly method: Method;
  /** Limits the slice to this many seconds. */
  readonly maxSeconds: number | undefined;
  readonly continuation: Continuation | undefined;
  /** Ends the replay: makes hidden messages visible, cancels the move task. */
  readonly stop: boolean;
}

const PROPERTIES = new Set([
  "all",
  "error_code",
  "flow",
  "older_than_seconds",
  "younger_than_seconds",
  "rate",
  "dry_run",
  "method",
  "max_seconds",
  "continuation",
  "stop",
]);

type Fields = Readonly<Record<string, unknown>>;

/** Parses the event. Throws one InvalidRequestError that lists every error. */
export function parseRequest(event: unknown): RedriveRequest {
  if (!isFields(event))
    throw new InvalidRequestError(['the event is not a JSON object: expected one like {"all": true}']);
  const errors: string[] = [];
  for (const name of Object.keys(event)) {
    if (!PROPERTIES.has(name)) errors.push(`"${name}" is unknown: expected ${[...PROPERTIES].join(", ")}`);
  }
  const filter: Filter = {
    errorCodes: readCodes(event, errors),
    flow: readFlow(event, errors),
    olderThanSeconds: readNumber(event, "older_than_seconds", 0, MAX_AGE_SECONDS, errors),
    youngerThanSeconds: readNumber(event, "younger_than_seconds", 0, MAX_AGE_SECONDS, errors),
  };
  const all = readFlag(event, "all", errors);
  const request: RedriveRequest = {
    filter,
    rate: readNumber(event, "rate", RATE.min, RATE.max, errors) ?? RATE.defaultValue,
    dryRun: readFlag(event, "dry_run", errors),
    method: readMethod(event, errors),
    maxSeconds: readNumber(event, "max_seconds", 1, MAX_SLICE_SECONDS, errors),
    continuation: parseContinuation(event.continuation, errors),
    stop: readFlag(event, "stop", errors),
  };
  errors.push(...conflicts(request, all));
  if (errors.length > 0) throw new InvalidRequestError(errors);
  return request;
}

function conflicts({ filter, method, dryRun, rate, stop }: RedriveRequest, all: boolean): string[] {
  const errors: string[] = [];
  const everything = selectsEverything(filter);
  if (all && !everything) errors.push('"all" cannot be combined with a filter: specify one of them');
  if (!all && everything && !dryRun && !stop) {
    errors.push('no messages selected: specify a filter, or "all": true for the whole queue');
  }
  if (method === "move_task" && (!everything || dryRun)) {
    errors.push('"method" is "move_task", which moves the whole queue: omit filters and "dry_run"');
  }
  if (method === "move_task" && rate < 1) errors.push('"rate" must be at least 1 for a move task');
  const { olderThanSeconds, youngerThanSeconds } = filter;
  if (
    olderThanSeconds !== undefined &&
    youngerThanSeconds !== undefined &&
    olderThanSeconds >= youngerThanSeconds
  ) {
    errors.push('"older_than_seconds" must be less than "younger_than_seconds": no message can match');
  }
  return errors;
}

function readCodes(event: Fields, errors: string[]): readonly string[] | undefined {
  const value = event.error_code;
  if (value === undefined) return undefined;
  const codes: readonly unknown[] = Array.isArray(value) ? value : [value];
  const texts = codes.filter((code) => typeof code === "string").filter((code) => code !== "");
  if (codes.length > 0 && texts.length === codes.length) return texts;
  errors.push('"error_code" must be a code or a list of codes; "none" selects messages without one');
  return undefined;
}

function readFlow(event: Fields, errors: string[]): string | undefined {
  if (event.flow === undefined) return undefined;
  const flow = parseFlowId(event.flow);
  if (flow.ok) return flow.value;
  errors.push(`"flow": ${flow.error.message}`);
  return undefined;
}

function readMethod(event: Fields, errors: string[]): Method {
  const method = METHODS.find((known) => known === (event.method ?? "auto"));
  if (method === undefined) errors.push(`"method" must be one of ${METHODS.join(", ")}`);
  return method ?? "auto";
}

function readFlag(event: Fields, name: string, errors: string[]): boolean {
  const value = event[name] ?? false;
  if (typeof value !== "boolean") errors.push(`"${name}" must be true or false`);
  return value === true;
}

function readNumber(
  event: Fields,
  name: string,
  min: number,
  max: number,
  errors: string[],
): number | undefined {
  const value = event[name];
  if (value === undefined) return undefined;
  if (typeof value === "number" && value >= min && value <= max) return value;
  errors.push(`"${name}" must be a number from ${min} to ${max}`);
  return undefined;
}

function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
