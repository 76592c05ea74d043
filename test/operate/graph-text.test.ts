import { describe, expect, test } from "vitest";
import { paint } from "#local/task-graph.ts";
import type { State } from "#operate/graph/states.ts";
import { graphText, type TextOptions } from "#operate/graph/text.ts";
import { graphOf } from "#test/operate/graphs.ts";

function lines(
  upstreams: Readonly<Record<string, readonly string[]>>,
  states: Readonly<Record<string, State>> = {},
  options: TextOptions = {},
): string[] {
  return graphText(graphOf(upstreams, states), options);
}

const range = (count: number, prefix: string) =>
  Array.from({ length: count }, (_, index) => `${prefix}${index}`);

describe("the text of a graph", () => {
  test("shows each task once, below its deepest upstream, with its state and its other upstreams", () => {
    expect(lines({ top: [], left: ["top"], right: ["top"], bottom: ["left", "right"] })).toEqual([
      "✓ top           completed",
      "├─ ✓ left       completed",
      "└─ ✓ right      completed",
      "   └─ ✓ bottom  completed (also depends on left)",
    ]);
  });

  test("names the failure that caused a skip, however far upstream it is", () => {
    const states = { a: "failed", b: "skipped", c: "skipped" } as const;
    expect(lines({ a: [], b: ["a"], c: ["b"] }, states)).toEqual([
      "✗ a        failed",
      "└─ - b     skipped because a failed",
      "   └─ - c  skipped because a failed",
    ]);
  });

  test("does not say that a cancelled execution failed", () => {
    const states = { a: "cancelled", b: "skipped" } as const;
    expect(lines({ a: [], b: ["a"] }, states).at(-1)).toBe("└─ - b  skipped because of a");
  });

  test("names two failures of several, and counts the others", () => {
    const failed = { a: "failed", b: "cancelled", c: "expired", d: "skipped" } as const;
    expect(lines({ a: [], b: [], c: [], d: ["a", "b", "c"] }, failed).at(-1)).toBe(
      "└─ - d  skipped because of a, b and 1 more (also depends on a and b)",
    );
  });

  test("collapses four and more siblings whose subtrees are equal, and no fewer", () => {
    const three = { root: [], ...Object.fromEntries(range(3, "t").map((id) => [id, ["root"]])) };
    expect(lines(three)).toHaveLength(4);
    const four = { root: [], ...Object.fromEntries(range(4, "t").map((id) => [id, ["root"]])) };
    expect(lines(four)).toEqual(["✓ root               completed", "└─ ✓ t0 and 3 alike  completed"]);
    expect(lines(four, { t2: "failed" })).toHaveLength(5);
  });

  test("is short for a wide and for a deep workflow, and counts what it does not show", () => {
    const deep = Object.fromEntries(range(20_000, "t").map((id, n) => [id, n === 0 ? [] : [`t${n - 1}`]]));
    const states = { t0: "failed", t15000: "failed" } as const;
    const shown = lines(deep, states);
    expect(shown).toHaveLength(14);
    expect(shown.slice(-2)).toEqual(["… and 19988 more: 19,987 completed, 1 failed", "  failed: t15000"]);
    const wide = Object.fromEntries(range(50, "t").map((id, n) => [id, n % 3 === 0 ? [] : [`t${n - 1}`]]));
    expect(lines({ ...wide, odd: [] }, {}, { maxLines: 3 }).at(-1)).toMatch(
      /^… and \d+ more: \d+ completed$/,
    );
  });

  test("a collapsed group counts the subtrees of all its tasks as shown", () => {
    const chains = range(5, "a").flatMap((a) => [[a, []] as const, [`${a}-next`, [a]] as const]);
    expect(lines(Object.fromEntries(chains))).toEqual([
      "✓ a0 and 4 alike  completed",
      "└─ ✓ a0-next      completed",
    ]);
  });

  test("the order of tasks in the file does not matter", () => {
    expect(lines({ b: ["a"], a: [] })).toEqual(["✓ a     completed", "└─ ✓ b  completed"]);
  });

  test("an id with control characters or of any length stays on its line", () => {
    const [line = ""] = lines({ [`a\u001b[31m\nb${"x".repeat(100)}`]: [] });
    expect(line).toMatch(/^✓ a\?\[31m\?bx+… {2}completed$/);
    expect([...line].length).toBeLessThan(62);
  });

  test("escapes only where it is asked to paint", () => {
    const flow = { a: [], b: ["a"] };
    const states = { a: "failed", b: "skipped" } as const;
    expect(lines(flow, states).join("\n")).not.toContain("\u001b");
    expect(lines(flow, states, { paint })).toEqual([
      "✗ a     \u001b[31mfailed\u001b[39m",
      "└─ - b  \u001b[33mskipped\u001b[39m because a failed",
    ]);
  });

  test("an unfinished task has the state that it is in", () => {
    expect(lines({ a: [], b: ["a"] }, { a: "active", b: "waiting_children" })).toEqual([
      "▶ a     active",
      "└─ … b  waiting for dependencies",
    ]);
  });
});
