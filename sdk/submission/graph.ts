/**
 * Pure functions over a workflow's graph. All are iterative and take linear time, so they handle a chain of 100,000
 * tasks. Edges to unknown task ids are ignored.
 */

/** The part of a workflow that these functions read. Ids must be distinct. */
export interface Graph {
  readonly tasks: readonly { readonly id: string }[];
  readonly edges: readonly { readonly from: string; readonly to: string }[];
}

/** The neighbours of task n are the task numbers in `targets` from `starts[n]` up to, not including, `starts[n + 1]`. */
interface Adjacency {
  readonly starts: Uint32Array;
  readonly targets: Uint32Array;
}

type Direction = "downstream" | "upstream";

/** All ids, each after its upstreams; roots keep their order. Undefined if there is a cycle. */
export function topologicalOrder(graph: Graph): string[] | undefined {
  const { order } = sortTopologically(graph);
  return order.length === graph.tasks.length ? order.map((task) => idAt(graph, task)) : undefined;
}

/** One cycle: the ids along its edges, with the first id repeated at the end. Undefined if there is none. */
export function findCycle(graph: Graph): string[] | undefined {
  const { order, remaining } = sortTopologically(graph);
  if (order.length === graph.tasks.length) return undefined;
  // Every unsorted task has an unsorted upstream, so a walk upstream must reach some task twice.
  const upstreams = adjacency(graph, "upstream");
  const position = new Map<number, number>();
  const walk: number[] = [];
  let task = remaining.findIndex((count) => count > 0);
  while (!position.has(task)) {
    position.set(task, walk.length);
    walk.push(task);
    task = neighbours(upstreams, task).find((upstream) => (remaining[upstream] ?? 0) > 0) ?? task;
  }
  const cycle = [...walk.slice(position.get(task)), task].reverse();
  return cycle.map((member) => idAt(graph, member));
}

/**
 * Kahn's algorithm. `remaining` holds the number of unsorted upstreams of each task: above 0 for tasks on a cycle or
 * downstream of one.
 */
function sortTopologically(graph: Graph): {
  readonly order: readonly number[];
  readonly remaining: Uint32Array;
} {
  const downstreams = adjacency(graph, "downstream");
  const remaining = new Uint32Array(graph.tasks.length);
  for (const child of downstreams.targets) remaining[child] = (remaining[child] ?? 0) + 1;
  const order: number[] = [];
  for (const [task, count] of remaining.entries()) if (count === 0) order.push(task);
  for (let next = 0; next < order.length; next += 1) {
    for (const child of neighbours(downstreams, order[next] ?? 0)) {
      const count = (remaining[child] ?? 0) - 1;
      remaining[child] = count;
      if (count === 0) order.push(child);
    }
  }
  return { order, remaining };
}

function adjacency(graph: Graph, direction: Direction): Adjacency {
  const numbers = new Map(graph.tasks.map(({ id }, number) => [id, number]));
  const pairs: [near: number, far: number][] = [];
  const starts = new Uint32Array(graph.tasks.length + 1);
  for (const { from, to } of graph.edges) {
    const near = numbers.get(direction === "downstream" ? from : to);
    const far = numbers.get(direction === "downstream" ? to : from);
    if (near === undefined || far === undefined) continue;
    pairs.push([near, far]);
    starts[near + 1] = (starts[near + 1] ?? 0) + 1;
  }
  for (let task = 1; task < starts.length; task += 1) {
    starts[task] = (starts[task] ?? 0) + (starts[task - 1] ?? 0);
  }
  const next = starts.slice();
  const targets = new Uint32Array(pairs.length);
  for (const [near, far] of pairs) {
    const position = next[near] ?? 0;
    targets[position] = far;
    next[near] = position + 1;
  }
  return { starts, targets };
}

function neighbours({ starts, targets }: Adjacency, task: number): Uint32Array {
  return targets.subarray(starts[task], starts[task + 1]);
}

function idAt(graph: Graph, task: number): string {
  return graph.tasks[task]?.id ?? "";
}
