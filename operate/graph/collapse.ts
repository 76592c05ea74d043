/**
 * Makes a large graph readable: executions that are alike become one node with a count. Each step below is coarser than the
 * one before, and the first whose result is small enough is taken:
 *
 * 1. siblings: the same parents, the same children, the same state, kind and lane; from four of them on, then from two.
 * 2. shapes: the same state, kind and lane, and parents and children that are alike. 1,000 equal branches become one.
 * 3. layers: the same state and kind at the same distance from the roots.
 * 4. bands: the same state, in a few bands of adjacent layers.
 */

import type { FlowGraph, FlowNode } from "#operate/graph/flow-graph.ts";

/** Executions that are shown as one node, or a single one. */
export interface CollapsedNode extends Pick<FlowNode, "name" | "kind" | "lane" | "state"> {
  /** Unique in the graph. */
  readonly id: string;
  /** Positions in `FlowGraph.nodes`. `name`, `kind` and `lane` are those of the first. */
  readonly members: readonly number[];
}

/** `count`: how many edges it stands for. */
export interface CollapsedEdge {
  readonly from: string;
  readonly to: string;
  readonly count: number;
}

export interface CollapsedGraph {
  readonly by: "nothing" | "siblings" | "shapes" | "layers" | "bands";
  readonly nodes: readonly CollapsedNode[];
  /** Without edges inside a node. */
  readonly edges: readonly CollapsedEdge[];
}

/** The layout takes about a second for a graph of this size, and 5 minutes for 2,000 nodes. Mermaid draws 500 edges. */
export interface Limits {
  readonly nodes: number;
  readonly edges: number;
}

const LIMITS: Limits = { nodes: 150, edges: 500 };
/** So many alike siblings always become one node. */
const ALIKE = 4;
const BANDS = [40, 20, 10, 5, 2];

/** Positions of nodes, by a key that they have in common. */
type Groups = ReadonlyMap<string, readonly number[]>;

export function collapse({ nodes }: FlowGraph, limits: Limits = LIMITS): CollapsedGraph {
  const steps: [by: CollapsedGraph["by"], groups: () => Groups][] = [
    ["siblings", () => siblings(nodes, ALIKE)],
    ["siblings", () => siblings(nodes, 2)],
    ["shapes", () => shapes(nodes, limits.nodes)],
    ["layers", () => layers(nodes, Number.POSITIVE_INFINITY, ({ state, kind }) => `${state} ${kind}`)],
    ...BANDS.map((bands): [by: "bands", groups: () => Groups] => [
      "bands",
      () => layers(nodes, bands, ({ state }) => state),
    ]),
  ];
  for (const [by, groups] of steps) {
    const collapsed = build(by, nodes, groups());
    if (collapsed.nodes.length > limits.nodes || collapsed.edges.length > limits.edges) continue;
    return collapsed.nodes.length === nodes.length ? { ...collapsed, by: "nothing" } : collapsed;
  }
  return build(
    "bands",
    nodes,
    groupBy(nodes, ({ state }) => state),
  );
}

function siblings(nodes: readonly FlowNode[], alike: number): Groups {
  const groups = groupBy(nodes, ({ state, kind, lane, upstream, downstream }) =>
    JSON.stringify([state, kind, lane, upstream.toSorted(ascending), downstream]),
  );
  return new Map(
    [...groups].flatMap(([key, members]): [string, readonly number[]][] =>
      members.length >= alike ? [[key, members]] : members.map((member) => [`${key} ${member}`, [member]]),
    ),
  );
}

/** Refines classes by the classes of parents and children, until no class is split, or there are too many. */
function shapes(nodes: readonly FlowNode[], limit: number): Groups {
  let groups = groupBy(nodes, ({ state, kind, lane }) => JSON.stringify([state, kind, lane]));
  for (;;) {
    const classes = classesOf(groups, nodes.length);
    const classSet = (positions: readonly number[]): number[] =>
      [...new Set(positions.map((position) => classes[position] ?? 0))].sort(ascending);
    const refined = groupBy(nodes, ({ upstream, downstream }, position) =>
      JSON.stringify([classes[position], classSet(upstream), classSet(downstream)]),
    );
    if (refined.size === groups.size || refined.size > limit) return refined;
    groups = refined;
  }
}

/** Groups nodes by layer and a text, with the layers in at most `bands` bands. */
function layers(nodes: readonly FlowNode[], bands: number, textOf: (node: FlowNode) => string): Groups {
  const levels = levelsOf(nodes);
  const height = levels.reduce((highest, level) => Math.max(highest, level), 0) + 1;
  const width = Math.max(1, Math.ceil(height / bands));
  return groupBy(nodes, (node, position) => `${Math.floor((levels[position] ?? 0) / width)} ${textOf(node)}`);
}

/** The distance of each node from its farthest root. Nodes of a cycle, which no library accepts, have 0. */
function levelsOf(nodes: readonly Pick<FlowNode, "upstream" | "downstream">[]): number[] {
  const levels = nodes.map(() => 0);
  const open = nodes.map(({ upstream }) => upstream.length);
  const ready = [...open.keys()].filter((position) => open[position] === 0);
  for (const position of ready) {
    for (const child of nodes[position]?.downstream ?? []) {
      levels[child] = Math.max(levels[child] ?? 0, (levels[position] ?? 0) + 1);
      open[child] = (open[child] ?? 0) - 1;
      if (open[child] === 0) ready.push(child);
    }
  }
  return levels;
}

function build(by: CollapsedGraph["by"], nodes: readonly FlowNode[], groups: Groups): CollapsedGraph {
  const classes = classesOf(groups, nodes.length);
  const counts = new Map<number, number>();
  for (const [position, { downstream }] of nodes.entries()) {
    for (const child of downstream) {
      const [from = 0, to = 0] = [classes[position], classes[child]];
      if (from === to) continue;
      const edge = from * groups.size + to;
      counts.set(edge, (counts.get(edge) ?? 0) + 1);
    }
  }
  return {
    by,
    nodes: [...groups.values()].map((members, id) => {
      const first = nodes[members[0] ?? 0];
      if (first === undefined) throw new RangeError("a group without members");
      const { name, kind, lane, state } = first;
      return { id: `n${id}`, name, kind, lane, state, members };
    }),
    edges: [...counts].map(([edge, count]) => ({
      from: `n${Math.floor(edge / groups.size)}`,
      to: `n${edge % groups.size}`,
      count,
    })),
  };
}

/** The number of the group of each node. */
function classesOf(groups: Groups, length: number): Uint32Array {
  const classes = new Uint32Array(length);
  let number = 0;
  for (const members of groups.values()) {
    for (const member of members) classes[member] = number;
    number += 1;
  }
  return classes;
}

function groupBy(nodes: readonly FlowNode[], keyOf: (node: FlowNode, position: number) => string): Groups {
  const groups = new Map<string, number[]>();
  for (const [position, node] of nodes.entries()) {
    const key = keyOf(node, position);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [position]);
    else group.push(position);
  }
  return groups;
}

function ascending(left: number, right: number): number {
  return left - right;
}
