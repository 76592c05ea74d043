import { describe, expect, it } from "vitest";
import { classifyFailures } from "#functions/dispatch/disposition.ts";
import { MalformedMessageError, ProtocolError, RefusedError, ValkeyError } from "#shared/errors.ts";

const healing = new ValkeyError("away");
const staged = new RefusedError("ff_resolve_dependency", "invalid_dependency", [], true);
const unknown = new RefusedError("ff_resolve_dependency", "no_such_code", []);
const violated = new RefusedError("ff_resolve_dependency", "invariant_violation", []);
const malformed = new MalformedMessageError("not JSON");
const strange = new ProtocolError("no array");

describe("classifyFailures", () => {
  it.each([
    ["nothing is wrong", [], undefined, false],
    ["it can heal", [healing], undefined, true],
    ["the edge is not applied yet", [staged], undefined, true],
    ["the message is no message", [malformed], malformed, false],
    ["the reply is no reply", [strange], strange, false],
    ["the refusal is unknown", [unknown], unknown, false],
    ["an invariant is violated", [violated], violated, false],
    ["one of two errors can heal", [unknown, healing], undefined, true],
    ["an invariant is violated, and another fault can heal", [healing, violated], violated, true],
  ])("where %s", (_, errors, deadLetter, retry) => {
    expect(classifyFailures(errors)).toEqual({ deadLetter, retry });
  });
});
