/** What an operator asks of a replay: the redrive function's event, read strictly. */

import { parseFlowId } from "#shared/contract/ids.ts";
import { InvalidRequestError } from "#shared/errors.ts";
import { parseContinuation } from "#shared/redrive/continuation.ts";
import { type Filter, selectsEverything } from "#shared/redrive/filter.ts";
import type { Continuation } from "#shared/redrive/report.ts";

export const METHODS = ["auto", "receive", "move_task"] as const;
export type Method = (typeof METHODS)[number];

/** Messages per second. SQS' own move tasks go no faster than the most. */
export const RATE = { least: 0.1, preset: 50, most: 500 } as const;
/** Lambda's longest run, in seconds. */
const LONGEST_SLICE_SECONDS = 900;
/** SQS' longest retention, in seconds. */
const GREATEST_AGE_SECONDS = 1_209_600;

export interface RedriveRequest {
  /** Messages per second. */
  readonly rate: number;
  readonly filter: Filter;
  readonly dryRun: boolean;
  /** `auto`: a move task of SQS where that does what is asked, else receive, send and delete. */
  readonly method: Method;
  /** When the slice ends at the latest, if it is not the whole time that there is. */
  readonly maxSeconds: number | undefined;
  readonly continuation: Continuation | undefined;
  /** End the replay: put back what it holds, cancel its move task. */
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

/** Reads the function's event; throws one InvalidRequestError that names every fault. */
export function parseRequest(event: unknown): RedriveRequest {
  if (!isFields(event))
    throw new InvalidRequestError(['the event is no JSON object: give one like {"all": true}']);
  const errors: string[] = [];
  for (const name of Object.keys(event)) {
    if (!PROPERTIES.has(name)) errors.push(`"${name}" is not known: there are ${[...PROPERTIES].join(", ")}`);
  }
  const filter: Filter = {
    errorCodes: readCodes(event, errors),
    flow: readFlow(event, errors),
    olderThanSeconds: readNumber(event, "older_than_seconds", 0, GREATEST_AGE_SECONDS, errors),
    youngerThanSeconds: readNumber(event, "younger_than_seconds", 0, GREATEST_AGE_SECONDS, errors),
  };
  const all = readFlag(event, "all", errors);
  const request: RedriveRequest = {
    filter,
    rate: readNumber(event, "rate", RATE.least, RATE.most, errors) ?? RATE.preset,
    dryRun: readFlag(event, "dry_run", errors),
    method: readMethod(event, errors),
    maxSeconds: readNumber(event, "max_seconds", 1, LONGEST_SLICE_SECONDS, errors),
    continuation: parseContinuation(event.continuation, errors),
    stop: readFlag(event, "stop", errors),
  };
  errors.push(...contradictions(request, all));
  if (errors.length > 0) throw new InvalidRequestError(errors);
  return request;
}

function contradictions({ filter, method, dryRun, rate, stop }: RedriveRequest, all: boolean): string[] {
  const errors: string[] = [];
  const everything = selectsEverything(filter);
  if (all && !everything) errors.push('"all" and a filter exclude each other: give one of them');
  if (!all && everything && !dryRun && !stop) {
    errors.push('nothing says which messages to replay: give a filter, or "all": true for the whole queue');
  }
  if (method === "move_task" && (!everything || dryRun)) {
    errors.push(
      '"method" is "move_task", which moves the whole queue: it takes neither a filter nor "dry_run"',
    );
  }
  if (method === "move_task" && rate < 1)
    errors.push('"rate": a move task moves at least 1 message per second');
  const { olderThanSeconds, youngerThanSeconds } = filter;
  if (
    olderThanSeconds !== undefined &&
    youngerThanSeconds !== undefined &&
    olderThanSeconds >= youngerThanSeconds
  ) {
    errors.push('"older_than_seconds" must be less than "younger_than_seconds": nothing is of such an age');
  }
  return errors;
}

function readCodes(event: Fields, errors: string[]): readonly string[] | undefined {
  const value = event.error_code;
  if (value === undefined) return undefined;
  const codes: readonly unknown[] = Array.isArray(value) ? value : [value];
  const texts = codes.filter((code) => typeof code === "string").filter((code) => code !== "");
  if (codes.length > 0 && texts.length === codes.length) return texts;
  errors.push('"error_code" takes a code, or a list of them; "none" stands for messages without one');
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
  const method = METHODS.find((one) => one === (event.method ?? "auto"));
  if (method === undefined) errors.push(`"method" takes ${METHODS.join(", ")}`);
  return method ?? "auto";
}

function readFlag(event: Fields, name: string, errors: string[]): boolean {
  const value = event[name] ?? false;
  if (typeof value !== "boolean") errors.push(`"${name}" takes true or false`);
  return value === true;
}

function readNumber(
  event: Fields,
  name: string,
  least: number,
  most: number,
  errors: string[],
): number | undefined {
  const value = event[name];
  if (value === undefined) return undefined;
  if (typeof value === "number" && value >= least && value <= most) return value;
  errors.push(`"${name}" takes a number from ${least} to ${most}`);
  return undefined;
}

function isFields(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
