import { describe, expect, it } from "vitest";
import { readPublished } from "#relay/published.ts";
import { newEvent } from "#test/relay/events.ts";

const FLOW = "550e8400-e29b-41d4-a716-446655440000";

describe("readPublished", () => {
  it("parses an event of the contract as a completion with depth 0", () => {
    const { id, text } = newEvent("failed", FLOW);
    expect(readPublished(text)).toEqual({
      kind: "completion",
      completion: { executionId: id, flowId: FLOW, outcome: "failed", depth: 0, root: id },
    });
  });

  it.each([
    ["skipped", newEvent("skipped").text],
    ["without_flow", newEvent("success", "").text],
    ["without_flow", JSON.stringify({ execution_id: newEvent().id, outcome: "skipped" })],
    ["malformed", "{"],
    ["malformed", newEvent("success", "x").text],
    ["malformed", JSON.stringify({ flow_id: FLOW })],
  ])("%s: %s", (kind, text) => {
    expect(readPublished(text)).toMatchObject({ kind });
  });

  it.each([
    ["of_a_later_version", "of_a_later_version"],
    [undefined, ""],
    [null, ""],
    [7, ""],
    ["no word", ""],
    ["refused by SQS: \uffff", ""],
    ["x".repeat(2 ** 20), ""],
  ])(
    "keeps an outcome of lowercase letters and underscores, and omits any other: case %#",
    (outcome, kept) => {
      const { id } = newEvent();
      const published = readPublished(JSON.stringify({ execution_id: id, flow_id: FLOW, outcome }));
      expect(published).toMatchObject({
        kind: "completion",
        completion: { executionId: id, outcome: kept },
      });
    },
  );
});
