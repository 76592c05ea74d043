import { describe, expect, it } from "vitest";
import { Duplicates } from "#relay/duplicates.ts";

/** The number of publications recognized in copies of one event, each named by the node that delivers it. */
function publications(copies: string): number {
  const duplicates = new Duplicates(() => 0);
  return [...copies].filter((node) => duplicates.isNew(node, "event")).length;
}

describe("Duplicates", () => {
  it.each([
    ["a", 1, "one node"],
    ["abc", 1, "each node once"],
    ["aabbcc", 2, "published twice, in each node's order"],
    ["abcabc", 2, "published twice, one after the other"],
    ["aabc", 2, "two nodes have not delivered the second yet"],
    ["abbcc", 2, "one node missed the second"],
    ["bbbca", 3, "one node is ahead"],
  ])("%s is %d: %s", (copies, expected) => {
    expect(publications(copies)).toBe(expected);
  });

  it("counts the copies of each event separately", () => {
    const duplicates = new Duplicates(() => 0);
    expect(["x", "y", "x"].map((event) => duplicates.isNew("a", event))).toEqual([true, true, true]);
    expect(["x", "y", "x", "y"].map((event) => duplicates.isNew("b", event))).toEqual([
      false,
      false,
      false,
      true,
    ]);
  });

  it("remembers an event for at least 10 and at most 20 seconds", () => {
    let nowMs = 0;
    const duplicates = new Duplicates(() => nowMs);
    expect(duplicates.isNew("a", "event")).toBe(true);
    nowMs = 9_999;
    expect(duplicates.isNew("b", "event")).toBe(false);
    nowMs = 10_000;
    expect(duplicates.isNew("c", "event")).toBe(false);
    nowMs = 20_000;
    expect(duplicates.isNew("d", "event")).toBe(true);
  });
});
