import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { CAUSES, cause, sortCauses } from "#operate/explain/causes.ts";

const PAGE = readFileSync(new URL("../../../docs/explain.md", import.meta.url), "utf8");

describe("docs/explain.md", () => {
  it("lists every cause with its severity, once", () => {
    const documented = PAGE.split("\n").flatMap((line) => {
      const [, code, severity, meaning, action] = /^\| `(\w+)` \| (\w+) \| (.+) \| (.+) \|$/.exec(line) ?? [];
      return code === undefined || meaning === undefined || action === undefined
        ? []
        : [`${code}: ${severity}`];
    });
    const defined = Object.entries(CAUSES).map(([code, severity]) => `${code}: ${severity}`);
    expect(documented.sort()).toEqual(defined.sort());
  });
});

describe("causes", () => {
  it("come with the most severe first, and name at most ten ids of alike things", () => {
    const edges = Array.from({ length: 50 }, (_, index) => `edge ${index}`);
    const sorted = sortCauses([
      cause("running", "it runs"),
      cause("lane_backlog", "others come first"),
      cause("completion_missing", "lost", { count: 50, involved: { edges, executions: [] } }),
      cause("library_missing", "no library"),
    ]);
    expect(sorted.map(({ code }) => code)).toEqual([
      "library_missing",
      "completion_missing",
      "lane_backlog",
      "running",
    ]);
    expect(sorted[1]).toMatchObject({
      count: 50,
      severity: "problem",
      involved: { edges: edges.slice(0, 10) },
    });
    expect(sorted[1]?.involved).not.toHaveProperty("executions");
  });
});
