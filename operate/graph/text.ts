import type { FlowGraph } from "#operate/graph/flow-graph.ts";
import { describeCounts, FAILURES, STATE_STYLES, type State } from "#operate/graph/states.ts";

export interface TextOptions {
  /** Colors a text, for a terminal. */
  readonly paint?: (text: string, state: State) => string;
  /** Executions beyond this number of lines are counted, not shown. */
  readonly maxLines?: number;
}

const MAX_LINES = 60;
/** Levels of the tree that are shown: deeper ones would not fit on a terminal. */
const MAX_LEVELS = 12;
const MAX_NAME = 48;
/** Siblings with equal subtrees become one line from this number on. */
const ALIKE = 4;
const MAX_NAMED_FAILURES = 10;

interface Node {
  readonly name: string;
  readonly state: State;
  readonly upstreams: readonly Node[];
  /** Distance from the farthest root; 0 for a root. */
  readonly level: number;
  /** The failures upstream that a skipped execution descends from, in the order in which they are found. */
  readonly causes: ReadonlyMap<string, State>;
  /** What is shown below this node: each execution has one place, below its deepest upstream. */
  readonly children: Node[];
  /** Equal for nodes whose subtrees differ only in names. */
  shape: number;
}

/**
 * A flow's graph as lines of text: a tree in dependency order, with each execution's state and, for a skipped one, the failure
 * that caused it.
 *
 * An execution with several upstreams appears once, below the deepest of them, and names the others. At least four siblings with
 * equal subtrees become one line.
 */
export function graphText(graph: FlowGraph, options: TextOptions = {}): string[] {
  const { paint = (text) => text, maxLines = MAX_LINES } = options;
  const nodes = treeOf(graph);
  assignShapes(nodes);
  const rows: Row[] = [];
  addRows(
    rows,
    nodes.filter(({ level }) => level === 0),
    { prefix: "", level: 0, maxLines },
  );
  const width = Math.max(0, ...rows.map(({ label }) => [...label].length));
  const lines = rows.map((row) => textOf(row, width, paint));
  const shown = new Set(rows.flatMap(({ executions }) => executions));
  return [...lines, ...describeHidden(nodes.filter((node) => !shown.has(node)))];
}

/** Every execution behind its upstreams. Those of a cycle, which no library accepts, are roots at the end. */
function treeOf({ nodes }: FlowGraph): Node[] {
  const built = new Map<number, Node>();
  const add = (position: number): void => {
    const node = nodes[position];
    if (node === undefined) return;
    const upstreams = node.upstream.flatMap((upstream) => built.get(upstream) ?? []);
    const parent = deepestOf(upstreams);
    const one: Node = {
      name: node.name,
      state: node.state,
      upstreams,
      level: parent === undefined ? 0 : parent.level + 1,
      causes: node.state === "skipped" ? causesOf(upstreams) : new Map(),
      children: [],
      shape: 0,
    };
    parent?.children.push(one);
    built.set(position, one);
  };
  const open = nodes.map(({ upstream }) => upstream.length);
  const ready = [...open.keys()].filter((position) => open[position] === 0);
  for (const position of ready) {
    add(position);
    for (const child of nodes[position]?.downstream ?? []) {
      open[child] = (open[child] ?? 0) - 1;
      if (open[child] === 0) ready.push(child);
    }
  }
  for (const position of nodes.keys()) if (!built.has(position)) add(position);
  return [...built.values()];
}

/** Of several upstreams at the same level, the last one: the ones before it can then be collapsed. */
function deepestOf(upstreams: readonly Node[]): Node | undefined {
  return upstreams.reduce<Node | undefined>(
    (deepest, one) => (deepest === undefined || one.level >= deepest.level ? one : deepest),
    undefined,
  );
}

function causesOf(upstreams: readonly Node[]): ReadonlyMap<string, State> {
  const causes = new Map<string, State>();
  for (const { name, state, causes: inherited } of upstreams) {
    if (FAILURES.has(state)) causes.set(name, state);
    for (const [cause, ended] of inherited) causes.set(cause, ended);
  }
  return causes;
}

/** Children come after their parents in `nodes`, so the walk from the end sees them first. */
function assignShapes(nodes: readonly Node[]): void {
  const known = new Map<string, number>();
  for (const node of nodes.toReversed()) {
    const { state, causes, upstreams, children } = node;
    const text = JSON.stringify([state, [...causes], upstreams.length, children.map(({ shape }) => shape)]);
    node.shape = known.get(text) ?? known.size;
    known.set(text, node.shape);
  }
}

interface Row {
  /** The tree's lines and the name of the execution. */
  readonly label: string;
  /** The execution that the row shows; with others alike, the first of them. */
  readonly node: Node;
  /** Every execution that the row stands for, the subtrees of collapsed siblings included. */
  readonly executions: readonly Node[];
  readonly detail: string;
}

/** Recursion ends at `MAX_LEVELS`, however deep the flow is. */
function addRows(
  rows: Row[],
  siblings: readonly Node[],
  { prefix, level, maxLines }: { prefix: string; level: number; maxLines: number },
): void {
  const groups = groupAlike(siblings);
  for (const [index, [first, ...alike]] of groups.entries()) {
    if (rows.length >= maxLines || first === undefined) return;
    const isLast = index === groups.length - 1;
    const connector = level === 0 ? "" : isLast ? "└─ " : "├─ ";
    const name =
      alike.length === 0 ? printable(first.name) : `${printable(first.name)} and ${alike.length} alike`;
    rows.push({
      label: `${prefix}${connector}${STATE_STYLES[first.state].symbol} ${name}`,
      node: first,
      executions: [first, ...alike.flatMap(subtreeOf)],
      detail: detailOf(first),
    });
    if (level + 1 < MAX_LEVELS) {
      const below = level === 0 ? "" : isLast ? "   " : "│  ";
      addRows(rows, first.children, { prefix: `${prefix}${below}`, level: level + 1, maxLines });
    }
  }
}

/** The siblings in their order; at least `ALIKE` of one shape are one group, at the place of the first. */
function groupAlike(siblings: readonly Node[]): Node[][] {
  const byShape = Map.groupBy(siblings, ({ shape }) => shape);
  return siblings.flatMap((node) => {
    const group = byShape.get(node.shape) ?? [];
    if (group.length < ALIKE) return [[node]];
    return node === group[0] ? [group] : [];
  });
}

/** Iterative: the tree may be as deep as the flow has executions. */
function subtreeOf(root: Node): Node[] {
  const subtree = [root];
  for (const node of subtree) subtree.push(...node.children);
  return subtree;
}

function detailOf({ state, causes, upstreams }: Node): string {
  const parts: string[] = [];
  if (state === "skipped" && causes.size > 0) {
    const failed = [...causes.values()].every((ended) => ended === "failed");
    parts.push(
      failed ? `because ${named(causes.keys(), 2)} failed` : `because of ${named(causes.keys(), 2)}`,
    );
  }
  const parent = deepestOf(upstreams);
  const others = upstreams.filter((one) => one !== parent).map(({ name }) => name);
  if (others.length > 0) parts.push(`(also depends on ${named(others, 2)})`);
  return parts.join(" ");
}

function named(names: Iterable<string>, limit: number): string {
  const all = [...names];
  const shown = all.slice(0, limit).map((name) => printable(name));
  return all.length > limit ? `${shown.join(", ")} and ${all.length - limit} more` : shown.join(" and ");
}

/** A name on one line, at most `MAX_NAME` characters long; a task id may hold anything that JSON can. */
export function printable(name: string, length = MAX_NAME): string {
  const characters = [...name.replace(/\p{C}/gu, "?")];
  return characters.length > length ? `${characters.slice(0, length - 1).join("")}…` : characters.join("");
}

function textOf(
  { label, node, detail }: Row,
  width: number,
  paint: (text: string, state: State) => string,
): string {
  const padded = label + " ".repeat(width - [...label].length);
  const state = paint(STATE_STYLES[node.state].label, node.state);
  return `${padded}  ${state}${detail === "" ? "" : ` ${detail}`}`;
}

function describeHidden(hidden: readonly Node[]): string[] {
  if (hidden.length === 0) return [];
  const failed = hidden.filter(({ state }) => FAILURES.has(state)).map(({ name }) => name);
  return [
    `… and ${hidden.length} more: ${describeCounts(hidden.map(({ state }) => state))}`,
    ...(failed.length === 0 ? [] : [`  failed: ${named(failed, MAX_NAMED_FAILURES)}`]),
  ];
}
