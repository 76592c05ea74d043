import { styleText } from "node:util";
import type { TaskState } from "#local/flow-status.ts";
import { topologicalOrder } from "#sdk/submission/graph.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";

export interface TaskTreeOptions {
  /** Whether to color states with ANSI escapes. */
  readonly colors: boolean;
  /** Tasks beyond this number of lines are counted, not shown. */
  readonly maxLines?: number;
}

const MAX_LINES = 60;
/** Levels of the tree that are shown: deeper ones would not fit on a terminal. */
const MAX_LEVELS = 12;
const MAX_NAME = 48;
/** Siblings with equal subtrees become one line from this number on. */
const MIN_ALIKE = 4;
const MAX_NAMED_FAILURES = 10;

const STYLES: Readonly<Record<TaskState, { symbol: string; color: "green" | "red" | "yellow" | "cyan" }>> = {
  success: { symbol: "✓", color: "green" },
  failed: { symbol: "✗", color: "red" },
  cancelled: { symbol: "✗", color: "red" },
  expired: { symbol: "✗", color: "red" },
  skipped: { symbol: "-", color: "yellow" },
  ready: { symbol: "…", color: "cyan" },
  delayed: { symbol: "…", color: "cyan" },
  active: { symbol: "…", color: "cyan" },
  blocked: { symbol: "…", color: "cyan" },
};
const FAILURES: ReadonlySet<TaskState> = new Set(["failed", "cancelled", "expired"]);

interface Node {
  readonly id: string;
  readonly state: TaskState;
  readonly upstreams: readonly Node[];
  /** Distance from the farthest root; 0 for a root. */
  readonly level: number;
  /** The failed tasks upstream that a skipped task descends from, in the order in which they are found. */
  readonly causes: ReadonlySet<string>;
  /** Tasks that are shown below this one: each task has one place, below its deepest upstream. */
  readonly children: Node[];
  /** Equal for nodes whose subtrees differ only in the ids of tasks. */
  shape: number;
}

/**
 * The tasks of a workflow as lines of text: a tree in dependency order, with each task's state and, for a skipped task,
 * the failure that caused it.
 *
 * A task with several upstreams appears once, below the deepest of them, and names the others. At least four siblings
 * with equal subtrees become one line. `states` is keyed by task id; a task without a state counts as blocked.
 */
export function describeTasks(
  workflow: Pick<Workflow, "tasks" | "edges">,
  states: ReadonlyMap<string, TaskState>,
  { colors, maxLines = MAX_LINES }: TaskTreeOptions,
): string[] {
  const nodes = nodesOf(workflow, states);
  assignShapes(nodes);
  const rows: Row[] = [];
  addRows(
    rows,
    nodes.filter(({ level }) => level === 0),
    { prefix: "", level: 0, maxLines },
  );
  const width = Math.max(0, ...rows.map(({ label }) => [...label].length));
  const lines = rows.map((row) => textOf(row, width, colors));
  const shown = new Set(rows.flatMap(({ tasks }) => tasks));
  return [...lines, ...describeHidden(nodes.filter((node) => !shown.has(node)))];
}

/** Every task behind its upstreams. */
function nodesOf(
  { tasks, edges }: Pick<Workflow, "tasks" | "edges">,
  states: ReadonlyMap<string, TaskState>,
): Node[] {
  const upstreamIds = new Map<string, string[]>(tasks.map(({ id }) => [id, []]));
  for (const { from, to } of edges) upstreamIds.get(to)?.push(from);
  const nodes = new Map<string, Node>();
  for (const id of topologicalOrder({ tasks, edges }) ?? []) {
    const upstreams = (upstreamIds.get(id) ?? []).flatMap((upstream) => nodes.get(upstream) ?? []);
    const state = states.get(id) ?? "blocked";
    const parent = deepestOf(upstreams);
    const node: Node = {
      id,
      state,
      upstreams,
      level: parent === undefined ? 0 : parent.level + 1,
      causes: state === "skipped" ? causesOf(upstreams) : new Set(),
      children: [],
      shape: 0,
    };
    parent?.children.push(node);
    nodes.set(id, node);
  }
  return [...nodes.values()];
}

/** Of several upstreams at the same level, the last one: the ones before it can then be collapsed. */
function deepestOf(upstreams: readonly Node[]): Node | undefined {
  return upstreams.reduce<Node | undefined>(
    (deepest, one) => (deepest === undefined || one.level >= deepest.level ? one : deepest),
    undefined,
  );
}

function causesOf(upstreams: readonly Node[]): ReadonlySet<string> {
  const causes = new Set<string>();
  for (const { id, state, causes: inherited } of upstreams) {
    if (FAILURES.has(state)) causes.add(id);
    for (const cause of inherited) causes.add(cause);
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
  /** The tree's lines and the name of the task. */
  readonly label: string;
  /** The task that the row shows; with others alike, the first of them. */
  readonly node: Node;
  /** Every task that the row stands for, the subtrees of collapsed siblings included. */
  readonly tasks: readonly Node[];
  readonly detail: string;
}

/** Recursion ends at `MAX_LEVELS`, however deep the workflow is. */
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
      alike.length === 0 ? printable(first.id) : `${printable(first.id)} and ${alike.length} alike`;
    rows.push({
      label: `${prefix}${connector}${STYLES[first.state].symbol} ${name}`,
      node: first,
      tasks: [first, ...alike.flatMap(subtreeOf)],
      detail: detailOf(first),
    });
    if (level + 1 < MAX_LEVELS) {
      const below = level === 0 ? "" : isLast ? "   " : "│  ";
      addRows(rows, first.children, { prefix: `${prefix}${below}`, level: level + 1, maxLines });
    }
  }
}

/** The siblings in their order; at least `MIN_ALIKE` of one shape are one group, at the place of the first. */
function groupAlike(siblings: readonly Node[]): Node[][] {
  const byShape = Map.groupBy(siblings, ({ shape }) => shape);
  return siblings.flatMap((node) => {
    const group = byShape.get(node.shape) ?? [];
    if (group.length < MIN_ALIKE) return [[node]];
    return node === group[0] ? [group] : [];
  });
}

/** Iterative: the tree may be as deep as the workflow has tasks. */
function subtreeOf(root: Node): Node[] {
  const subtree = [root];
  for (const node of subtree) subtree.push(...node.children);
  return subtree;
}

function detailOf({ state, causes, upstreams }: Node): string {
  const parts: string[] = [];
  if (state === "skipped" && causes.size > 0) parts.push(`because ${named(causes, 2)} failed`);
  const parent = deepestOf(upstreams);
  const others = upstreams.filter((one) => one !== parent).map(({ id }) => id);
  if (others.length > 0) parts.push(`(also depends on ${named(others, 2)})`);
  return parts.join(" ");
}

function named(ids: Iterable<string>, limit: number): string {
  const all = [...ids];
  const names = all.slice(0, limit).map(printable);
  return all.length > limit ? `${names.join(", ")} and ${all.length - limit} more` : names.join(" and ");
}

/** A task id on one line, at most `MAX_NAME` characters long; it may hold anything that JSON can. */
function printable(id: string): string {
  const characters = [...id.replace(/\p{C}/gu, "?")];
  return characters.length > MAX_NAME
    ? `${characters.slice(0, MAX_NAME - 1).join("")}…`
    : characters.join("");
}

function textOf({ label, node, detail }: Row, width: number, colors: boolean): string {
  const padded = label + " ".repeat(width - [...label].length);
  // `validateStream: false`: the caller has decided, and not the state of this process' standard output.
  const state = colors
    ? styleText(STYLES[node.state].color, node.state, { validateStream: false })
    : node.state;
  return `${padded}  ${state}${detail === "" ? "" : ` ${detail}`}`;
}

function describeHidden(hidden: readonly Node[]): string[] {
  if (hidden.length === 0) return [];
  const counts = [...Map.groupBy(hidden, ({ state }) => state)].map(
    ([state, nodes]) => `${nodes.length} ${state}`,
  );
  const failed = hidden.filter(({ state }) => FAILURES.has(state)).map(({ id }) => id);
  return [
    `… and ${hidden.length} more tasks: ${counts.join(", ")}`,
    ...(failed.length === 0 ? [] : [`  failed: ${named(failed, MAX_NAMED_FAILURES)}`]),
  ];
}
