import { styleText } from "node:util";
import type { TaskState } from "#local/flow-status.ts";
import type { FlowGraph } from "#operate/graph/flow-graph.ts";
import { STATE_STYLES, type State } from "#operate/graph/states.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";

const STATES: Readonly<Record<TaskState, State>> = {
  success: "completed",
  failed: "failed",
  cancelled: "cancelled",
  expired: "expired",
  skipped: "skipped",
  active: "active",
  ready: "waiting",
  delayed: "delayed",
  blocked: "waiting_children",
};

/** The graph of a workflow in the file's order. `states` is keyed by task id; a task without a state counts as blocked. */
export function taskGraph(
  { name, tasks, edges }: Pick<Workflow, "name" | "tasks" | "edges">,
  states: ReadonlyMap<string, TaskState>,
): FlowGraph {
  const positions = new Map(tasks.map(({ id }, position) => [id, position]));
  const upstream: number[][] = tasks.map(() => []);
  const downstream: number[][] = tasks.map(() => []);
  for (const { from, to } of edges) {
    const [parent, child] = [positions.get(from), positions.get(to)];
    if (parent === undefined || child === undefined) continue;
    downstream[parent]?.push(child);
    upstream[child]?.push(parent);
  }
  return {
    flow: "",
    name,
    nodes: tasks.map(({ id, kind = "", lane }, position) => ({
      execution: "",
      name: id,
      kind,
      lane,
      state: STATES[states.get(id) ?? "blocked"],
      upstream: upstream[position] ?? [],
      downstream: downstream[position] ?? [],
    })),
  };
}

/** Colors a text as the state of a task. */
export function paint(text: string, state: State): string {
  // `validateStream: false`: the caller has decided, and not the state of this process' standard output.
  return styleText(STATE_STYLES[state].color, text, { validateStream: false });
}
