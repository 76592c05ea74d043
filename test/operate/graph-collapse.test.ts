import { describe, expect, test } from "vitest";
import { type CollapsedGraph, collapse } from "#operate/graph/collapse.ts";
import { joinPages } from "#operate/graph/flow-graph.ts";
import { layout } from "#operate/graph/layout.ts";
import { graphOf } from "#test/operate/graphs.ts";

const range = (count: number, prefix: string) =>
  Array.from({ length: count }, (_, index) => `${prefix}${index}`);

const below = (parents: readonly string[], names: readonly string[]) =>
  Object.fromEntries(names.map((name) => [name, parents]));

/** `name×count state` of each node. */
function nodesOf({ nodes }: CollapsedGraph): string[] {
  return nodes.map(({ name, members, state }) => `${name}×${members.length} ${state}`);
}

function edgesOf({ nodes, edges }: CollapsedGraph): string[] {
  const names = new Map(nodes.map(({ id, name }) => [id, name]));
  return edges.map(({ from, to, count }) => `${names.get(from)}>${names.get(to)}×${count}`);
}

describe("the collapse of a graph", () => {
  test("four siblings with the same parents, children and state become one node, and three do not", () => {
    const three = collapse(graphOf({ top: [], ...below(["top"], range(3, "t")) }));
    expect(three).toMatchObject({ by: "nothing", nodes: { length: 4 } });
    const four = collapse(graphOf({ top: [], ...below(["top"], range(4, "t")), end: range(4, "t") }));
    expect(four.by).toBe("siblings");
    expect(nodesOf(four)).toEqual(["top×1 completed", "t0×4 completed", "end×1 completed"]);
    expect(edgesOf(four)).toEqual(["top>t0×4", "t0>end×4"]);
  });

  test("siblings in another state, of another kind or with another child stay apart", () => {
    const names = range(12, "t");
    const graph = graphOf(
      { top: [], ...below(["top"], names), end: ["t0"] },
      { t1: "failed", end: "waiting_children" },
      (name) => (name === "t2" ? "report" : "task"),
    );
    expect(nodesOf(collapse(graph))).toEqual([
      "top×1 completed",
      "t0×1 completed",
      "t1×1 failed",
      "t2×1 completed",
      "t3×9 completed",
      "end×1 waiting_children",
    ]);
  });

  test("1,000 equal branches become one, and the failed one stays apart", () => {
    const branches = range(1_000, "b").map((name, index) => [name, [`a${index}`]]);
    const graph = graphOf(
      {
        root: [],
        ...below(["root"], range(1_000, "a")),
        ...Object.fromEntries(branches),
        end: range(1_000, "b"),
      },
      { a7: "failed", b7: "skipped", end: "skipped" },
    );
    const collapsed = collapse(graph);
    expect(collapsed.by).toBe("shapes");
    expect(nodesOf(collapsed)).toEqual([
      "root×1 completed",
      "a0×999 completed",
      "a7×1 failed",
      "b0×999 completed",
      "b7×1 skipped",
      "end×1 skipped",
    ]);
  });

  test.each([
    ["a chain of 2,000", chain(2_000), "bands"],
    ["2,000 executions with ten upstreams each that are not alike", irregular(), "layers"],
  ])("%s becomes small enough to draw in well under a minute", (_, graph, by) => {
    const collapsed = collapse(graph);
    expect(collapsed.by).toBe(by);
    expect(collapsed.nodes.length).toBeLessThanOrEqual(150);
    expect(collapsed.edges.length).toBeLessThanOrEqual(500);
    // Each execution is in exactly one node, and that node has its state.
    expect(collapsed.nodes.flatMap(({ members }) => members).sort((a, b) => a - b)).toEqual([
      ...graph.nodes.keys(),
    ]);
    for (const { members, state } of collapsed.nodes) {
      expect(new Set(members.map((member) => graph.nodes[member]?.state))).toEqual(new Set([state]));
    }
    const placed = layout(collapsed, () => ({ width: 100, height: 40 }));
    expect(placed.nodes.size).toBe(collapsed.nodes.length);
    for (const points of placed.edges) expect(points.length).toBeGreaterThanOrEqual(2);
  });
});

function chain(length: number) {
  return graphOf(
    Object.fromEntries(range(length, "t").map((name, index) => [name, index === 0 ? [] : [`t${index - 1}`]])),
    { t50: "active" },
  );
}

/** Ten layers of 200 executions. Each has ten upstreams, at distances that differ from node to node. */
function irregular() {
  const states = ["completed", "failed", "skipped"] as const;
  const upstreams = range(2_000, "t").map((name, index) => {
    const layer = Math.floor(index / 200);
    const parents = Array.from(
      { length: 11 },
      (_, n) => (layer - 1) * 200 + ((index * 7 + n * (n + index)) % 200),
    );
    return [name, layer === 0 ? [] : [...new Set(parents)].map((parent) => `t${parent}`)];
  });
  return graphOf(
    Object.fromEntries(upstreams),
    Object.fromEntries(
      range(2_000, "t").map((name, index) => [name, states[(index * index) % 3] ?? "failed"]),
    ),
  );
}

describe("the layout of a graph", () => {
  test("places each node right of its upstreams, and no node on another", () => {
    const collapsed = collapse(graphOf({ a: [], b: ["a"], c: ["a"], d: ["b", "c"], e: ["a", "d"] }));
    const { nodes } = layout(collapsed, () => ({ width: 80, height: 30 }));
    const boxOf = (name: string) => {
      const box = nodes.get(collapsed.nodes.find((node) => node.name === name)?.id ?? "");
      if (box === undefined) throw new Error(`${name} has no place`);
      return box;
    };
    for (const [from, to] of ["ab", "ac", "bd", "cd", "de"].map(
      ([one = "", two = ""]) => [one, two] as const,
    )) {
      expect(boxOf(from).x + 80).toBeLessThan(boxOf(to).x);
    }
    expect(Math.abs(boxOf("b").y - boxOf("c").y)).toBeGreaterThan(30);
  });
});

describe("joining the pages of a graph", () => {
  const node = (execution: string, task: string, state: string, downstream: string[] = []) => ({
    execution_id: execution,
    task,
    kind: "task",
    lane: "default",
    state,
    downstream,
  });

  test("a later page wins, names are sorted as people count, and a deleted downstream is shown", () => {
    const graph = joinPages([
      {
        flow_id: "f",
        name: "n",
        nodes: [node("1", "t10", "waiting", ["2", "3"]), node("2", "t9", "active")],
      },
      {
        flow_id: "f",
        name: "n",
        nodes: [node("2", "t9", "completed"), node("{fp:1}:0a1b2c3d-4", "", "active", ["2"])],
      },
    ]);
    expect(graph.nodes.map(({ name, state }) => `${name} ${state}`)).toEqual([
      "3 missing",
      "t9 completed",
      "t10 waiting",
      "task 0a1b2c3d active",
    ]);
    expect(graph.nodes.map(({ upstream, downstream }) => [upstream, downstream])).toEqual([
      [[2], []],
      [[2, 3], []],
      [[], [0, 1]],
      [[], [1]],
    ]);
  });
});
