import { describe, expect, it } from "vitest";
import { classifyFailures, mayStartOver } from "#functions/dispatch/disposition.ts";
import {
  MalformedMessageError,
  ProtocolError,
  PublishError,
  RefusedError,
  ValkeyError,
} from "#shared/errors.ts";

const retryable = new ValkeyError("away");
const staged = new RefusedError("ff_resolve_dependency", "invalid_dependency", [], true);
const unknown = new RefusedError("ff_resolve_dependency", "no_such_code", []);
const violated = new RefusedError("ff_resolve_dependency", "invariant_violation", []);
const malformed = new MalformedMessageError("not JSON");
const malformedReply = new ProtocolError("no array");

describe("classifyFailures", () => {
  it.each([
    ["no errors", [], undefined, false],
    ["a retryable error", [retryable], undefined, true],
    ["an edge that is not applied yet", [staged], undefined, true],
    ["a malformed message", [malformed], malformed, false],
    ["a malformed reply", [malformedReply], malformedReply, false],
    ["an unknown refusal", [unknown], unknown, false],
    ["a violated invariant", [violated], violated, false],
    ["two errors, one of them retryable", [unknown, retryable], undefined, true],
    ["a violated invariant and a retryable error", [retryable, violated], violated, true],
  ])("classifies %s", (_, errors, deadLetter, retry) => {
    expect(classifyFailures(errors)).toEqual({ deadLetter, retry });
  });
});

describe("mayStartOver", () => {
  it.each([
    ["a dispatched message", { kind: "dispatched" }, false],
    ["a restarted cascade", { kind: "stopped", gate: "depth_limit" }, false],
    ["a Valkey that did not reply", { kind: "failed", errors: [retryable] }, true],
    ["a send that was refused", { kind: "failed", errors: [new PublishError("full", "refused")] }, true],
    ["a send without an answer", { kind: "failed", errors: [new PublishError("reset", "unknown")] }, false],
  ] as const)("decides for %s", (_, result, expected) => {
    expect(mayStartOver(result)).toBe(expected);
  });
});
