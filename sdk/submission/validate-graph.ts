import { type ErrorList, quoted } from "#sdk/submission/error-list.ts";
import { findCycle, type Graph } from "#sdk/submission/graph.ts";
import { checkTask } from "#sdk/submission/validate-task.ts";
import type { Task, Workflow, WorkflowEdge } from "#sdk/submission/workflow.ts";

/** A workflow whose graph is not validated yet. `path` is a position in the file, like `tasks[3]`. */
export interface UncheckedWorkflow {
  readonly name: string;
  readonly tasks: readonly { readonly task: Task; readonly path: string }[];
  readonly edges: readonly UncheckedEdge[];
  /** The property of a task that holds its id, for error messages. `id` if omitted. */
  readonly idProperty?: "id" | "name";
}

export interface UncheckedEdge {
  readonly edge: WorkflowEdge;
  /** The position of the edge in the file. */
  readonly path: string;
  /** The end that the entry names. The other end is the task that contains the entry. */
  readonly namedEnd: "from" | "to";
}

const MAX_REPORTED_CYCLES = 10;
const MAX_CYCLE_LENGTH = 20;

/**
 * Validates the graph and builds the workflow. Returns undefined if there is a duplicate id, an edge to an unknown task
 * or to the task itself, a duplicate edge, a cycle, or a setting that does not fit its task (`checkTask`), and adds every
 * such error to `errors`.
 */
export function buildWorkflow(unchecked: UncheckedWorkflow, errors: ErrorList): Workflow | undefined {
  const { idProperty = "id" } = unchecked;
  const pathById = new Map<string, string>();
  for (const { task, path } of unchecked.tasks) {
    const first = pathById.get(task.id);
    if (first === undefined) pathById.set(task.id, path);
    else
      errors.add(
        `${path}.${idProperty}`,
        `the ${idProperty} ${quoted(task.id)} is already used by ${first}: give each task a different ${idProperty}`,
      );
  }
  const edges = checkEdges(unchecked, pathById, errors);
  checkCycles(unchecked, edges, errors);
  const dependencies = new Map<string, number>();
  for (const { edge } of unchecked.edges) dependencies.set(edge.to, (dependencies.get(edge.to) ?? 0) + 1);
  for (const { task, path } of unchecked.tasks) checkTask(task, dependencies.get(task.id) ?? 0, path, errors);
  if (!errors.isEmpty) return undefined;
  return {
    name: unchecked.name,
    tasks: unchecked.tasks.map(({ task }) => task),
    edges: unchecked.edges.map(({ edge }) => edge),
  };
}

/** Returns the valid edges: both ends exist and differ, and each edge occurs once. */
function checkEdges(
  unchecked: UncheckedWorkflow,
  tasks: ReadonlyMap<string, string>,
  errors: ErrorList,
): UncheckedEdge[] {
  const seen = new Map<string, string>();
  return unchecked.edges.filter(({ edge, path, namedEnd }) => {
    const key = edgeKey(edge.from, edge.to);
    const first = seen.get(key);
    const unknown = [edge[namedEnd], edge.from, edge.to].find((id) => !tasks.has(id));
    if (unknown !== undefined) {
      errors.add(
        path,
        `no task has the ${unchecked.idProperty ?? "id"} ${quoted(unknown)}: correct or remove the entry`,
      );
    } else if (edge.from === edge.to) {
      errors.add(path, `the task ${quoted(edge.from)} cannot depend on itself: remove the entry`);
    } else if (first !== undefined) {
      errors.add(path, `repeats the dependency on ${quoted(edge[namedEnd])} in ${first}: remove one of them`);
    } else {
      seen.set(key, path);
      return true;
    }
    return false;
  });
}

/** Reports up to ten cycles. The tasks of a reported cycle are ignored in the search for the next one. */
function checkCycles(unchecked: UncheckedWorkflow, edges: readonly UncheckedEdge[], errors: ErrorList): void {
  const ids = new Set(unchecked.tasks.map(({ task }) => task.id));
  for (let found = 0; found < MAX_REPORTED_CYCLES; found += 1) {
    const graph: Graph = { tasks: [...ids].map((id) => ({ id })), edges: edges.map(({ edge }) => edge) };
    const cycle = findCycle(graph);
    if (cycle === undefined) return;
    const path = edges.find(({ edge }) => edge.from === cycle[0] && edge.to === cycle[1])?.path ?? "";
    errors.add(path, `is part of the cycle ${formatCycle(cycle)}: remove one of these dependencies`);
    for (const id of cycle) ids.delete(id);
  }
}

function formatCycle(cycle: readonly string[]): string {
  const ids = cycle.map(quoted);
  if (ids.length <= MAX_CYCLE_LENGTH) return ids.join(" → ");
  const half = MAX_CYCLE_LENGTH / 2;
  return [...ids.slice(0, half), `(${ids.length - MAX_CYCLE_LENGTH} more)`, ...ids.slice(-half)].join(" → ");
}

/** A unique text for a pair of ids, whatever characters the ids contain. */
export function edgeKey(from: string, to: string): string {
  return JSON.stringify([from, to]);
}
