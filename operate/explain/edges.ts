/** The incoming edges of an execution: those that are staged but not applied, or the reverse, and a page of all of them. */

import { z } from "zod";
import {
  type ExplainContext,
  forEachPage,
  hashOf,
  hashRead,
  PAGE,
  readSetPage,
} from "#operate/explain/read.ts";
import type { Subject } from "#operate/explain/subject.ts";
import { readUpstreams } from "#operate/explain/upstreams.ts";
import { readTaskNames } from "#operate/task-names.ts";
import { readAll, textsOf } from "#shared/consistency/read.ts";
import { command } from "#shared/contract/command.ts";
import { type EdgeId, parseEdgeId, parseExecutionId } from "#shared/contract/ids.ts";
import { parseTime } from "#shared/contract/record.ts";

const edgeSchema = z.object({
  edge_id: z.string(),
  upstream_execution_id: z.string().describe("Empty if no record of the edge names it"),
  upstream_task: z.string().describe("The upstream's task in the workflow. Empty: not known"),
  upstream_state: z.string().describe("The upstream's public_state. Empty: it has no record"),
  is_staged: z.boolean().describe("The edge is part of the flow's graph: the end of the upstream reaches it"),
  is_applied: z.boolean().describe("The execution knows the edge and waits for it"),
  state: z.string().describe("unsatisfied, satisfied or impossible. Empty: not applied"),
  resolved_at: z.number().optional().describe("When the end of the upstream was recorded on it"),
});

export const edgesSchema = z.object({
  staged: z.number().describe("Edges of the flow's graph that lead to the execution"),
  applied: z.number(),
  unresolved: z.number(),
  items: z.array(edgeSchema).describe("One page of the edges, those that are not satisfied first"),
  next: z.string().optional().describe("The cursor of the next page. Missing on the last page"),
});

export type Edge = z.infer<typeof edgeSchema>;
export type EdgesPage = z.infer<typeof edgesSchema>;

/** Edges that only one of the two sides has. */
export interface UnmatchedEdges {
  readonly notApplied: { count: number; readonly examples: string[] };
  readonly notStaged: { count: number; readonly examples: string[] };
  readonly isComplete: boolean;
}

const MAX_EXAMPLES = 10;

/** Compares the staged edges with the applied ones, 1,000 at a time. */
export async function readUnmatched(
  context: ExplainContext,
  { keys, flow }: Subject,
): Promise<UnmatchedEdges> {
  const { partition } = keys;
  const result = { notApplied: { count: 0, examples: [] }, notStaged: { count: 0, examples: [] } };
  if (flow === undefined) return { ...result, isComplete: true };
  const staged = { partition, key: flow.keys.incoming(keys.id) };
  const applied = { partition, key: keys.depsAllEdges };
  const compare = (
    set: typeof staged,
    other: typeof staged,
    unmatched: { count: number; examples: string[] },
  ): Promise<boolean> =>
    forEachPage(context, set, async (members) => {
      const [flags] = await readAll(context, [command(partition, "smismember", other.key, ...members)]);
      for (const [position, member] of members.entries()) {
        if (!Array.isArray(flags) || flags[position] !== 0) continue;
        unmatched.count += 1;
        if (unmatched.examples.length < MAX_EXAMPLES) unmatched.examples.push(member);
      }
    });
  const isComplete =
    (await compare(staged, applied, result.notApplied)) && (await compare(applied, staged, result.notStaged));
  return { ...result, isComplete };
}

const DEP_FIELDS = ["upstream_execution_id", "state", "last_resolved_at"] as const;

/** `staged-42`: a cursor in the set of staged edges. Then follow the applied ones that are not staged. */
export const EDGES_CURSOR = /^(staged|applied)-(\d{1,20})$/;

/** Reads a page of about `limit` edges. `cursor` has the form of `EDGES_CURSOR`. */
export async function readEdgesPage(
  context: ExplainContext,
  subject: Subject,
  limit: number,
  cursor = "staged-0",
): Promise<EdgesPage> {
  const { keys, flow } = subject;
  const { partition } = keys;
  const [, part = "staged", at = "0"] = EDGES_CURSOR.exec(cursor) ?? [];
  const counts = {
    staged: flow?.stagedEdges ?? 0,
    applied: subject.appliedEdges,
    unresolved: subject.unresolvedEdges,
  };
  const staged = flow?.keys.incoming(keys.id);
  const isStagedPart = part === "staged" && staged !== undefined;
  const page = await readSetPage(
    context,
    { partition, key: isStagedPart ? staged : keys.depsAllEdges },
    at,
    Math.min(limit, PAGE),
  );
  const members = [...new Set(page.members)];
  const other = isStagedPart ? keys.depsAllEdges : staged;
  const flags = await membership(context, subject, other, members);
  const edges = members.flatMap((member, position): ReadEdge[] => {
    const edge = parseEdgeId(member);
    const isInOther = flags[position] === true;
    // The staged ones are on the pages before.
    if (!edge.ok || (!isStagedPart && isInOther)) return [];
    return [{ edge: edge.value, isStaged: isStagedPart, isApplied: !isStagedPart || isInOther }];
  });
  const items = await readItems(context, subject, edges);
  const next = page.next === "0" ? (isStagedPart ? "applied-0" : undefined) : `${part}-${page.next}`;
  // Most executions have no edge that is applied but not staged: they need no second page.
  const isLast =
    next === "applied-0" && counts.applied <= counts.staged && items.every((item) => item.is_applied);
  return { ...counts, items: items.toSorted(unmetFirst), ...(next === undefined || isLast ? {} : { next }) };
}

interface ReadEdge {
  readonly edge: EdgeId;
  readonly isStaged: boolean;
  readonly isApplied: boolean;
}

async function membership(
  context: ExplainContext,
  { keys }: Subject,
  key: string | undefined,
  members: readonly string[],
): Promise<boolean[]> {
  if (key === undefined || members.length === 0) return members.map(() => false);
  const [flags] = await readAll(context, [command(keys.partition, "smismember", key, ...members)]);
  return members.map((_, position) => Array.isArray(flags) && flags[position] === 1);
}

async function readItems(
  context: ExplainContext,
  { keys, flow }: Subject,
  edges: readonly ReadEdge[],
): Promise<Edge[]> {
  const { partition } = keys;
  const replies = await readAll(
    context,
    edges.flatMap(({ edge }) => [
      hashRead(partition, keys.dep(edge), DEP_FIELDS),
      // Without a flow, the execution has no staged edges: its own record answers with nothing.
      hashRead(partition, flow?.keys.edge(edge) ?? keys.dep(edge), ["upstream_execution_id"]),
    ]),
  );
  const read = edges.map((one, position) => {
    const dep = hashOf(DEP_FIELDS, replies[2 * position]);
    const [staged = ""] = textsOf(replies[2 * position + 1]);
    const upstream = parseExecutionId(dep.upstream_execution_id || staged);
    return { ...one, dep, upstream: upstream.ok ? upstream.value : undefined };
  });
  const ids = [...new Set(read.flatMap(({ upstream }) => upstream ?? []))];
  const states = new Map(
    (await readUpstreams(context, ids)).map(({ id, record }) => [id, record.public_state]),
  );
  const names = await readTaskNames(context, ids);
  const tasks = new Map(ids.map((id, position) => [id, names[position] ?? ""]));
  return read.map(({ edge, isStaged, isApplied, dep, upstream }) => {
    const resolvedAt = parseTime(dep.last_resolved_at);
    return {
      edge_id: edge,
      upstream_execution_id: upstream ?? "",
      upstream_task: upstream === undefined ? "" : (tasks.get(upstream) ?? ""),
      upstream_state: upstream === undefined ? "" : (states.get(upstream) ?? ""),
      is_staged: isStaged,
      is_applied: isApplied,
      state: dep.state,
      ...(resolvedAt === undefined ? {} : { resolved_at: resolvedAt }),
    };
  });
}

function unmetFirst(left: Edge, right: Edge): number {
  return Number(left.state === "satisfied") - Number(right.state === "satisfied");
}
