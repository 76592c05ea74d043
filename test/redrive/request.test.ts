import { describe, expect, it } from "vitest";
import { InvalidRequestError } from "#shared/errors.ts";
import { readRedriveConfig } from "#shared/redrive/config.ts";
import { parseRequest } from "#shared/redrive/request.ts";

function errorsOf(event: unknown): readonly string[] {
  try {
    parseRequest(event);
  } catch (error) {
    if (error instanceof InvalidRequestError) return error.errors;
    throw error;
  }
  return [];
}

const RECEIVE = {
  pass: "receive",
  started_at: 1,
  next_send_at: 2,
  totals: { seen: 1, matching: 0, replayed: 0, failed: 0, kept: 1, over_limit: 0 },
  held: [["id", "handle"]],
};

describe("parseRequest", () => {
  it("has defaults for everything except the selection", () => {
    expect(parseRequest({ all: true })).toEqual({
      rate: 50,
      filter: {
        errorCodes: undefined,
        flow: undefined,
        olderThanSeconds: undefined,
        youngerThanSeconds: undefined,
      },
      dryRun: false,
      method: "auto",
      maxSeconds: undefined,
      continuation: undefined,
      stop: false,
    });
  });

  it.each([[RECEIVE], [{ pass: "move_task", task_handle: "h" }]])(
    "returns a continuation unchanged",
    (continuation) => {
      expect(parseRequest({ all: true, continuation }).continuation).toEqual(continuation);
    },
  );

  it.each([
    ["not a JSON object", "all"],
    ["not a JSON object", null],
    ["not a JSON object", []],
    ["no messages selected", {}],
    ["cannot be combined", { all: true, flow: "550e8400-e29b-41d4-a716-446655440000" }],
    ['"key1" is unknown', { all: true, key1: "value1" }],
    ['"all"', { all: "yes", error_code: "x" }],
    ['"error_code"', { error_code: [] }],
    ['"error_code"', { error_code: ["a", 1] }],
    ['"error_code"', { error_code: "" }],
    ['"flow"', { flow: "nightly" }],
    ['"rate"', { all: true, rate: 0 }],
    ['"rate"', { all: true, rate: 501 }],
    ['"rate"', { all: true, rate: "10" }],
    ['"rate"', { all: true, rate: Number.NaN }],
    ['"older_than_seconds"', { older_than_seconds: -1 }],
    ["no message can match", { older_than_seconds: 60, younger_than_seconds: 60 }],
    ['"method"', { all: true, method: "purge" }],
    ['"method"', { method: "move_task", error_code: "a" }],
    ["at least 1", { all: true, method: "move_task", rate: 0.5 }],
    ['"max_seconds"', { all: true, max_seconds: 901 }],
    ['"continuation"', { all: true, continuation: {} }],
    ['"continuation"', { all: true, continuation: { ...RECEIVE, held: [["id"]] } }],
    ['"continuation"', { all: true, continuation: { ...RECEIVE, totals: { seen: 1 } } }],
    ['"continuation"', { all: true, continuation: { pass: "move_task", task_handle: "" } }],
  ])("rejects with %s: %j", (message, event) => {
    expect(errorsOf(event).filter((error) => error.includes(message))).not.toEqual([]);
  });

  it("reports every error at once", () => {
    expect(errorsOf({ rate: -1, flow: 1, method: "x", dry_run: 1 })).toHaveLength(5);
  });
});

describe("readRedriveConfig", () => {
  const env = { DEAD_LETTER_QUEUE_URL: "https://q/dead", COMPLETIONS_QUEUE_URL: "https://q/completions" };

  it("reads two queues and a limit of five replays", () => {
    expect(readRedriveConfig(env)).toMatchObject({ deadLetterQueueUrl: "https://q/dead", maxReplays: 5 });
    expect(readRedriveConfig({ ...env, MAX_REPLAYS: "2" })).toMatchObject({ maxReplays: 2 });
  });

  it.each([
    ["DEAD_LETTER_QUEUE_URL is not set", { ...env, DEAD_LETTER_QUEUE_URL: "" }],
    ["MAX_REPLAYS", { ...env, MAX_REPLAYS: "0" }],
    ["the same queue", { ...env, DEAD_LETTER_QUEUE_URL: env.COMPLETIONS_QUEUE_URL }],
  ])("rejects with %s", (message, environment) => {
    expect(() => readRedriveConfig(environment)).toThrow(message);
  });
});
