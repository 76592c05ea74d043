import { expect, it } from "vitest";
import { expectationsOf, randomGraph } from "#test/faults/graph.ts";
import { Random } from "#test/faults/random.ts";

const SEEDS = Array.from({ length: 300 }, (_, seed) => seed);

it("a seed gives the same graph and the same draws every time", () => {
  for (const seed of SEEDS.slice(0, 20)) {
    expect(randomGraph(new Random(seed))).toEqual(randomGraph(new Random(seed)));
    expect(new Random(seed).uuid()).toBe(new Random(seed).uuid());
  }
  expect(new Random(1, 1).uuid()).not.toBe(new Random(1).uuid());
  expect(new Set(SEEDS.map((seed) => JSON.stringify(randomGraph(new Random(seed))))).size).toBeGreaterThan(
    250,
  );
});

it("draws stay within their bounds and reach both", () => {
  const random = new Random(1);
  const drawn = new Set(Array.from({ length: 200 }, () => random.between(3, 6)));
  expect([...drawn].sort()).toEqual([3, 4, 5, 6]);
  expect(random.shuffled([1, 2, 3, 4]).sort()).toEqual([1, 2, 3, 4]);
  expect(() => random.pick([])).toThrow(RangeError);
  expect(random.uuid()).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
});

it("every graph is acyclic and has a failing root on which alone two tasks depend", () => {
  const states = new Set<string>();
  for (const seed of SEEDS) {
    const graph = randomGraph(new Random(seed));
    expect(graph.edges.every(([up, down]) => up < down && down < graph.outcomes.length)).toBe(true);
    const parentsOf = (task: number) => graph.edges.flatMap(([up, down]) => (down === task ? [up] : []));
    const bare = [...graph.outcomes.keys()].filter(
      (task) =>
        graph.outcomes[task] === "failed" &&
        parentsOf(task).length === 0 &&
        graph.edges.filter(([up, down]) => up === task && parentsOf(down).length === 1).length >= 2,
    );
    expect(bare.length).toBeGreaterThanOrEqual(1);
    for (const { state } of expectationsOf(graph)) states.add(state);
  }
  expect([...states].sort()).toEqual(["cancelled", "completed", "failed", "skipped"]);
});
