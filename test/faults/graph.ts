import { finalStates, type ModelGraph } from "#test/dispatch/model.ts";
import type { Random } from "#test/faults/random.ts";

const MAX_TASKS = 9;
const EDGE_PERCENT = 30;
const OUTCOMES = ["success", "success", "success", "success", "failed", "cancelled"] as const;

/**
 * A random graph in which one delivery skips at least two children: a root fails, and two tasks depend on it alone.
 * So a dispatch reaches every step, and sends several commands in each.
 */
export function randomGraph(random: Random): ModelGraph {
  const size = random.between(4, MAX_TASKS);
  const outcomes: ModelGraph["outcomes"][number][] = [];
  for (let task = 0; task < size; task += 1) outcomes.push(random.pick(OUTCOMES));
  const failing = random.below(size - 2);
  const first = random.between(failing + 1, size - 2);
  const skipped = [first, random.between(first + 1, size - 1)];
  outcomes[failing] = "failed";
  const edges: [number, number][] = skipped.map((task) => [failing, task]);
  for (let down = 0; down < size; down += 1) {
    for (let up = 0; up < down; up += 1) {
      const isDrawn = random.chance(EDGE_PERCENT);
      if (isDrawn && down !== failing && !skipped.includes(down)) edges.push([up, down]);
    }
  }
  return { outcomes, edges };
}

/** Two random graphs side by side, so that several tasks are eligible at the same time. */
export function wideGraph(random: Random): ModelGraph {
  const [left, right] = [randomGraph(random), randomGraph(random)];
  const offset = left.outcomes.length;
  return {
    outcomes: [...left.outcomes, ...right.outcomes],
    edges: [...left.edges, ...right.edges.map(([up, down]) => [up + offset, down + offset] as const)],
  };
}

/** The expected end of a task. */
export interface Expected {
  /** The record's `public_state`. */
  readonly state: string;
  /** How often a worker claims it. */
  readonly runs: number;
  readonly upstreams: number;
  /** The number of its upstreams that do not succeed. */
  readonly impossible: number;
}

/** The expected end of every task. A cancelled task is cancelled before a worker claims it. */
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
