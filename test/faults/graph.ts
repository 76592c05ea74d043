import { finalStates, type ModelGraph } from "#test/dispatch/model.ts";
import type { Random } from "#test/faults/random.ts";

const MOST_TASKS = 9;
const EDGE_PERCENT = 30;
const OUTCOMES = ["success", "success", "success", "success", "failed", "cancelled"] as const;

/**
 * A random graph in which one delivery skips two children at least: a task that depends on nothing fails, and two
 * later ones wait for it and for nothing else. So every step of a dispatch is reached, also amid its work.
 */
export function randomGraph(random: Random): ModelGraph {
  const size = random.between(4, MOST_TASKS);
  const outcomes: ModelGraph["outcomes"][number][] = [];
  for (let task = 0; task < size; task += 1) outcomes.push(random.pick(OUTCOMES));
  const failing = random.below(size - 2);
  const first = random.between(failing + 1, size - 2);
  const doomed = [first, random.between(first + 1, size - 1)];
  outcomes[failing] = "failed";
  const edges: [number, number][] = doomed.map((task) => [failing, task]);
  for (let down = 0; down < size; down += 1) {
    for (let up = 0; up < down; up += 1) {
      const isDrawn = random.chance(EDGE_PERCENT);
      if (isDrawn && down !== failing && !doomed.includes(down)) edges.push([up, down]);
    }
  }
  return { outcomes, edges };
}

/** What must become of one task in the end. */
export interface Expected {
  /** The record's `public_state`. */
  readonly state: string;
  /** How often a worker takes it. */
  readonly runs: number;
  readonly upstreams: number;
  /** How many of its upstreams do not succeed. */
  readonly impossible: number;
}

/** What the model says of every task. A cancelled task is cancelled before a worker takes it. */
export function expectationsOf(graph: ModelGraph): Expected[] {
  const states = finalStates(graph);
  return states.map((state, task) => {
    const upstreams = graph.edges.flatMap(([up, down]) => (down === task ? [states[up]] : []));
    return {
      state,
      runs: state === "completed" || state === "failed" ? 1 : 0,
      upstreams: upstreams.length,
      impossible: upstreams.filter((upstream) => upstream !== "completed").length,
    };
  });
}
