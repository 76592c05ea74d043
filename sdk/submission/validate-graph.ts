import { type ErrorList, quoted } from "#sdk/submission/error-list.ts";
import { findCycle, type Graph } from "#sdk/submission/graph.ts";
import type { Task, Workflow, WorkflowEdge } from "#sdk/submission/workflow.ts";

/** What a file says, before it is known to be a workflow; places are paths in that file. */
export interface UncheckedWorkflow {
  readonly name: string;
  readonly tasks: readonly { readonly task: Task; readonly place: string }[];
  readonly edges: readonly UncheckedEdge[];
}

export interface UncheckedEdge {
  readonly edge: WorkflowEdge;
  /** Where the edge is written. */
  readonly place: string;
  /** The end that is named there, as against the end that is the task around it. */
  readonly names: "from" | "to";
}

const MAX_CYCLES = 10;
const MAX_CYCLE_SHOWN = 20;

/**
 * Makes a workflow of a draft. Undefined where the draft is none: no tasks, a duplicate id, an edge to an
 * unknown task, to the task itself, or written twice, a cycle; then every fault is among `errors`.
 */
export function buildWorkflow(draft: UncheckedWorkflow, errors: ErrorList): Workflow | undefined {
  const places = new Map<string, string>();
  for (const { task, place } of draft.tasks) {
    const first = places.get(task.id);
    if (first === undefined) places.set(task.id, place);
    else errors.add(`${place}.id`, `the id ${quoted(task.id)} is taken by ${first}; give each task its own`);
  }
  checkCycles(draft, checkEdges(draft, places, errors), errors);
  if (!errors.none) return undefined;
  return {
    name: draft.name,
    tasks: draft.tasks.map(({ task }) => task),
    edges: draft.edges.map(({ edge }) => edge),
  };
}

/** The edges that can be part of a cycle: both ends known and different, each once. */
function checkEdges(
  draft: UncheckedWorkflow,
  tasks: ReadonlyMap<string, string>,
  errors: ErrorList,
): UncheckedEdge[] {
  const seen = new Map<string, string>();
  return draft.edges.filter(({ edge, place, names }) => {
    const key = edgeKey(edge.from, edge.to);
    const first = seen.get(key);
    if (!tasks.has(edge[names])) {
      errors.add(
        place,
        `no task has the id ${quoted(edge[names])}; name a task of this file or remove the entry`,
      );
    } else if (edge.from === edge.to) {
      errors.add(place, `the task ${quoted(edge.from)} cannot depend on itself; remove the entry`);
    } else if (first !== undefined) {
      errors.add(place, `repeats the dependency on ${quoted(edge[names])} of ${first}; remove one of them`);
    } else {
      seen.set(key, place);
      return true;
    }
    return false;
  });
}

/** Lists several cycles where there are several: the tasks of each are set aside to look for the next. */
function checkCycles(draft: UncheckedWorkflow, edges: readonly UncheckedEdge[], errors: ErrorList): void {
  const ids = new Set(draft.tasks.map(({ task }) => task.id));
  for (let found = 0; found < MAX_CYCLES; found += 1) {
    const graph: Graph = { tasks: [...ids].map((id) => ({ id })), edges: edges.map(({ edge }) => edge) };
    const cycle = findCycle(graph);
    if (cycle === undefined) return;
    const place = edges.find(({ edge }) => edge.from === cycle[0] && edge.to === cycle[1])?.place ?? "";
    errors.add(place, `is part of the cycle ${drawn(cycle)}; remove one of these dependencies`);
    for (const id of cycle) ids.delete(id);
  }
}

function drawn(cycle: readonly string[]): string {
  const ids = cycle.map(quoted);
  if (ids.length <= MAX_CYCLE_SHOWN) return ids.join(" → ");
  const half = MAX_CYCLE_SHOWN / 2;
  return [...ids.slice(0, half), `(${ids.length - MAX_CYCLE_SHOWN} more)`, ...ids.slice(-half)].join(" → ");
}

/** One text for a pair of ids, whatever characters they have. */
export function edgeKey(from: string, to: string): string {
  return JSON.stringify([from, to]);
}
