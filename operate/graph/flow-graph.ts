/**
 * A flow's graph in memory. The files of this folder also run in a browser: they import nothing of Node.
 */

import { type State, stateOf } from "#operate/graph/states.ts";
import type { GraphNode } from "#operate/read/graph.ts";

/** One execution. `upstream` and `downstream` are positions in `FlowGraph.nodes`. */
export interface FlowNode {
  readonly execution: string;
  /** Its task, else its kind and the beginning of its UUID. */
  readonly name: string;
  readonly kind: string;
  readonly lane: string;
  readonly state: State;
  readonly upstream: readonly number[];
  readonly downstream: readonly number[];
}

export interface FlowGraph {
  /** The flow id. */
  readonly flow: string;
  /** The name of the workflow. May be empty. */
  readonly name: string;
  /** In the order of their names. */
  readonly nodes: readonly FlowNode[];
}

/** A page of the operation `graph`. */
export interface GraphPage {
  readonly flow_id: string;
  readonly name: string;
  readonly nodes: readonly GraphNode[];
}

/**
 * Joins the pages of the operation `graph`. An execution that two pages have is taken from the later one. A downstream that no
 * page has, because it was deleted meanwhile, becomes a node in the state `missing`.
 */
export function joinPages(pages: readonly GraphPage[]): FlowGraph {
  const found = new Map<string, GraphNode>();
  for (const { nodes } of pages) for (const node of nodes) found.set(node.execution_id, node);
  for (const { downstream = [] } of [...found.values()]) {
    for (const id of downstream) {
      if (!found.has(id)) found.set(id, { execution_id: id, task: "", kind: "", lane: "", state: "" });
    }
  }
  const { compare } = new Intl.Collator("en", { numeric: true });
  const sorted = [...found.values()]
    .map((node) => ({ node, name: nameOf(node) }))
    .sort((left, right) => compare(left.name, right.name));
  const positions = new Map(sorted.map(({ node }, position) => [node.execution_id, position]));
  const upstream: number[][] = sorted.map(() => []);
  const downstream = sorted.map(({ node }, position) => {
    const targets = [...new Set(node.downstream ?? [])].flatMap((id) => positions.get(id) ?? []);
    for (const target of targets) upstream[target]?.push(position);
    return targets.sort((left, right) => left - right);
  });
  return {
    flow: pages[0]?.flow_id ?? "",
    name: pages[0]?.name ?? "",
    nodes: sorted.map(({ node, name }, position) => ({
      execution: node.execution_id,
      name,
      kind: node.kind,
      lane: node.lane,
      state: stateOf(node.state),
      upstream: upstream[position] ?? [],
      downstream: downstream[position] ?? [],
    })),
  };
}

const UUID_SHOWN = 8;

/** What people call an execution: its task, else its kind and the beginning of its UUID. */
export function nameOf({
  execution_id: id,
  task,
  kind,
}: Pick<GraphNode, "execution_id" | "task" | "kind">): string {
  if (task !== "") return task;
  const start = id.lastIndexOf(":") + 1;
  const uuid = id.slice(start, start + UUID_SHOWN);
  return kind === "" ? uuid : `${kind} ${uuid}`;
}
