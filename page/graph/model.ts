/** The graph of a flow as the page holds it. */

import { nameOf } from "#operate/graph/flow-graph.ts";
import type { GraphNode } from "#operate/read/graph.ts";

export interface PageNode {
  readonly execution: string;
  /** The task, else what the execution is called. */
  readonly name: string;
  /** The end of the name, from a separator on, if that is enough to tell all nodes apart. */
  readonly short: string;
  readonly kind: string;
  readonly lane: string;
}

/** Positions in `nodes` stand for nodes everywhere. */
export interface GraphModel {
  readonly flow: string;
  readonly name: string;
  readonly isPartial: boolean;
  readonly nodes: readonly PageNode[];
  readonly upstream: readonly (readonly number[])[];
  readonly downstream: readonly (readonly number[])[];
  readonly byExecution: ReadonlyMap<string, number>;
}

/** What the server sends of a graph (local/page/topics.ts). */
export interface GraphOutput {
  readonly flow_id: string;
  readonly name: string;
  readonly nodes: readonly GraphNode[];
  readonly is_partial: boolean;
}

/** Nodes are ordered by their names, with numbers in their order. */
export function modelOf({ flow_id: flow, name, nodes, is_partial }: GraphOutput): GraphModel {
  const { compare } = new Intl.Collator("en", { numeric: true });
  const sorted = nodes
    .map((node) => ({ node, name: nameOf(node) }))
    .sort((one, other) => compare(one.name, other.name));
  const shorts = shortNames(sorted.map((one) => one.name));
  const byExecution = new Map(sorted.map(({ node }, position) => [node.execution_id, position]));
  const upstream: number[][] = sorted.map(() => []);
  const downstream = sorted.map(({ node }, position) => {
    const targets = [...new Set(node.downstream ?? [])].flatMap((id) => byExecution.get(id) ?? []);
    for (const target of targets) upstream[target]?.push(position);
    return targets.sort((one, other) => one - other);
  });
  return {
    flow,
    name,
    isPartial: is_partial,
    nodes: sorted.map(({ node, name: full }, position) => ({
      execution: node.execution_id,
      name: full,
      short: shorts[position] ?? full,
      kind: node.kind,
      lane: node.lane,
    })),
    upstream,
    downstream,
    byExecution,
  };
}

/** Names of recorded workflows repeat the pipeline and the module that a task belongs to. */
function shortNames(names: readonly string[]): readonly string[] {
  const ends = names.map((name) => /[^.:/]+$/.exec(name)?.[0] ?? name);
  return new Set(ends).size === names.length ? ends : names;
}

/** All nodes that depend on a node, directly or not, or on which it depends. The node itself is not one. */
export function reachable(edges: readonly (readonly number[])[], start: number): Set<number> {
  const found = new Set<number>();
  const open = [start];
  for (let node = open.pop(); node !== undefined; node = open.pop()) {
    for (const next of edges[node] ?? []) {
      if (found.has(next)) continue;
      found.add(next);
      open.push(next);
    }
  }
  return found;
}

/** What to call an execution in little space, also one that is not in the graph. */
export function shortNameOf({ nodes, byExecution }: GraphModel, execution: string, task: string): string {
  return nodes[byExecution.get(execution) ?? -1]?.short ?? (task || execution);
}
