import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { findCycle, type Graph, topologicalOrder } from "#sdk/submission/graph.ts";

/** Any directed graph, including self edges and repeated edges. */
const anyGraph = fc.integer({ min: 1, max: 12 }).chain((size) => {
  const node = fc.integer({ min: 0, max: size - 1 });
  return fc.array(fc.tuple(node, node), { maxLength: 30 }).map((pairs) => graphOf(size, pairs));
});

/** Edges go from lower to higher numbers only. The tasks are in any order. */
const acyclicGraph = anyGraph.chain((graph) =>
  fc.shuffledSubarray([...graph.tasks], { minLength: graph.tasks.length }).map((tasks) => ({
    tasks,
    edges: graph.edges.filter(({ from, to }) => Number(from) < Number(to)),
  })),
);

function graphOf(size: number, pairs: readonly (readonly [number, number])[]): Graph {
  return {
    tasks: Array.from({ length: size }, (_, number) => ({ id: String(number) })),
    edges: pairs.map(([from, to]) => ({ from: String(from), to: String(to) })),
  };
}

function chain(length: number): Graph {
  return graphOf(
    length,
    Array.from({ length: length - 1 }, (_, number) => [number, number + 1] as const),
  );
}

/** The tasks downstream of `from`, by repeating over all edges: slow, and simple enough to trust. */
function reachable(graph: Graph, from: string): Set<string> {
  const found = new Set<string>();
  for (let size = -1; size < found.size; ) {
    size = found.size;
    for (const edge of graph.edges) if (edge.from === from || found.has(edge.from)) found.add(edge.to);
  }
  return found;
}

describe("random graphs", () => {
  test("a graph has either a topological order or a cycle, and the reported cycle follows its edges", () => {
    fc.assert(
      fc.property(anyGraph, (graph) => {
        const cyclic = graph.tasks.some(({ id }) => reachable(graph, id).has(id));
        const cycle = findCycle(graph);
        expect(topologicalOrder(graph) === undefined).toBe(cyclic);
        expect(cycle !== undefined).toBe(cyclic);
        if (cycle === undefined) return;
        expect(cycle.length).toBeGreaterThan(1);
        expect(cycle[0]).toBe(cycle.at(-1));
        expect(new Set(cycle).size).toBe(cycle.length - 1);
        for (const [position, from] of cycle.slice(0, -1).entries()) {
          const to = cycle[position + 1];
          expect(graph.edges.some((edge) => edge.from === from && edge.to === to)).toBe(true);
        }
      }),
      { numRuns: 1_000 },
    );
  });

  test("a topological order contains each task once, after its upstreams", () => {
    fc.assert(
      fc.property(acyclicGraph, (graph) => {
        const order = topologicalOrder(graph) ?? [];
        expect(order).toHaveLength(graph.tasks.length);
        expect(new Set(order)).toEqual(new Set(graph.tasks.map(({ id }) => id)));
        const position = new Map(order.map((id, at) => [id, at]));
        for (const { id } of graph.tasks) {
          const upstreams = graph.edges.filter(({ to }) => to === id).map(({ from }) => from);
          for (const from of upstreams) expect(position.get(from)).toBeLessThan(position.get(id) ?? -1);
        }
      }),
      { numRuns: 500 },
    );
  });
});

test("a chain of 100,000 tasks is sorted, and its cycle found", () => {
  const graph = chain(100_000);
  expect(topologicalOrder(graph)).toHaveLength(100_000);
  expect(findCycle({ ...graph, edges: [...graph.edges, { from: "99999", to: "0" }] })).toHaveLength(100_001);
});

test("tasks without edges keep their order", () => {
  expect(topologicalOrder({ tasks: [{ id: "b" }, { id: "a" }, { id: "c" }], edges: [] })).toEqual([
    "b",
    "a",
    "c",
  ]);
});
