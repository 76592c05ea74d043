/** Why an execution was skipped: the chain of edges from it up to the execution whose end started the cascade. */

import { z } from "zod";
import { type Cause, cause } from "#operate/explain/causes.ts";
import {
  type ExplainContext,
  forEachPage,
  hashOf,
  hashRead,
  hasTime,
  nameOf,
  sluice,
} from "#operate/explain/read.ts";
import type { Subject } from "#operate/explain/subject.ts";
import { readTaskNames } from "#operate/task-names.ts";
import { plural } from "#operate/words.ts";
import { readAll } from "#shared/consistency/read.ts";
import { type EdgeId, type ExecutionId, parseEdgeId, parseExecutionId } from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { parseTime } from "#shared/contract/record.ts";
import { parseSkipRoot, SKIP_FIELDS, type SkipRoot } from "#shared/contract/skip.ts";

/** Links that are read and shown. The root is known without them if the record has it. */
const MAX_LINKS = 100;

const linkSchema = z.object({
  execution_id: z
    .string()
    .describe("An execution of the chain: the first one is upstream of the skipped execution"),
  task: z.string().describe("Its task in the workflow. Empty: not known"),
  edge_id: z.string().describe("The edge that leads from it to the execution before it"),
  outcome: z.string().describe("How it ended. Empty: it has no record any more, or was replayed since"),
  reason: z.string().describe("Why, as its record says"),
  ended_at: z.number().optional(),
});

export const skipSchema = z.object({
  root_execution_id: z.string().describe("The execution whose end started the cascade. Empty: not known"),
  root_task: z.string().describe("Its task in the workflow. Empty: not known"),
  root_reason: z.string().describe("How and why it ended, for example `failed: connection refused`"),
  chain: z.array(linkSchema).max(MAX_LINKS).describe("From the skipped execution up to the root"),
  is_complete: z.boolean().describe("False: the chain is longer, or a record of it is missing"),
});

export type Skip = z.infer<typeof skipSchema>;
type Link = z.infer<typeof linkSchema>;

const FIELDS = [
  "terminal_outcome",
  "failure_reason",
  "cancellation_reason",
  "completed_at",
  "flow_id",
] as const;
const DEP_FIELDS = ["upstream_execution_id", "state", "last_resolved_at"] as const;

/** Reads the chain, one level at a time. */
export async function readSkip(context: ExplainContext, { keys, record }: Subject): Promise<Skip> {
  const { partition, core } = keys;
  const [stored] = await readAll(context, [hashRead(partition, core, SKIP_FIELDS)]);
  const values = hashOf(SKIP_FIELDS, stored);
  const root = parseSkipRoot(SKIP_FIELDS.map((name) => values[name]));
  const chain: Link[] = [];
  const seen = new Set<ExecutionId>([keys.id]);
  let at: { readonly keys: ExecKeys; readonly completedAt: string } | undefined = {
    keys,
    completedAt: record.completed_at,
  };
  let isComplete = false;
  while (at !== undefined && chain.length < MAX_LINKS && hasTime(context)) {
    const edge: DecidingEdge | undefined = await decidingEdge(context, at.keys, at.completedAt);
    if (edge === undefined || seen.has(edge.upstream)) break;
    seen.add(edge.upstream);
    const upstream = context.router.execKeys(edge.upstream);
    const [[reply], [task = ""]] = await Promise.all([
      readAll(context, [hashRead(upstream.partition, upstream.core, FIELDS)]),
      readTaskNames(context, [edge.upstream]),
    ]);
    const fields = hashOf(FIELDS, reply);
    chain.push(linkOf(edge, fields, task));
    isComplete = fields.terminal_outcome !== "skipped" && hasEnded(fields.terminal_outcome);
    at =
      fields.terminal_outcome === "skipped"
        ? { keys: upstream, completedAt: fields.completed_at }
        : undefined;
  }
  const named = rootOf(root, chain, isComplete);
  return {
    ...named,
    root_task: await rootTask(context, named.root_execution_id, chain),
    chain,
    is_complete: isComplete,
  };
}

async function rootTask(context: ExplainContext, root: string, chain: readonly Link[]): Promise<string> {
  const link = chain.find(({ execution_id }) => execution_id === root);
  if (link !== undefined) return link.task;
  const id = parseExecutionId(root);
  if (!id.ok) return "";
  const [task = ""] = await readTaskNames(context, [id.value]);
  return task;
}

function rootOf(
  stored: SkipRoot | undefined,
  chain: readonly Link[],
  isComplete: boolean,
): Pick<Skip, "root_execution_id" | "root_reason"> {
  const last = chain.at(-1);
  // The root's record has the whole reason, the skipped one only its beginning.
  if (isComplete && last !== undefined && (stored === undefined || stored.execution === last.execution_id)) {
    const reason = last.reason === "" ? last.outcome : `${last.outcome}: ${last.reason}`;
    return { root_execution_id: last.execution_id, root_reason: reason };
  }
  return { root_execution_id: stored?.execution ?? "", root_reason: stored?.reason ?? "" };
}

function linkOf(
  edge: DecidingEdge,
  fields: Readonly<Record<(typeof FIELDS)[number], string>>,
  task: string,
): Link {
  const outcome = hasEnded(fields.terminal_outcome) ? fields.terminal_outcome : "";
  const endedAt = parseTime(fields.completed_at);
  const reason = outcome === "cancelled" ? fields.cancellation_reason : fields.failure_reason;
  return {
    execution_id: edge.upstream,
    task,
    edge_id: edge.edge,
    outcome,
    reason: outcome === "" || outcome === "skipped" ? "" : reason,
    ...(endedAt === undefined || outcome === "" ? {} : { ended_at: endedAt }),
  };
}

function hasEnded(outcome: string): boolean {
  return outcome !== "" && outcome !== "none";
}

interface DecidingEdge {
  readonly edge: EdgeId;
  readonly upstream: ExecutionId;
}

/**
 * The edge that skipped an execution: an impossible one that was resolved at the time of the skip, else the first one that was
 * resolved.
 */
async function decidingEdge(
  context: ExplainContext,
  keys: ExecKeys,
  completedAt: string,
): Promise<DecidingEdge | undefined> {
  let best:
    | { readonly edge: DecidingEdge; readonly resolvedAt: number; readonly isExact: boolean }
    | undefined;
  await forEachPage(context, { partition: keys.partition, key: keys.depsAllEdges }, async (members) => {
    // An exact match cannot be improved.
    if (best?.isExact === true) return;
    const edges = members.flatMap((member): EdgeId[] => {
      const edge = parseEdgeId(member);
      return edge.ok ? [edge.value] : [];
    });
    const replies = await readAll(
      context,
      edges.map((edge) => hashRead(keys.partition, keys.dep(edge), DEP_FIELDS)),
    );
    for (const [position, edge] of edges.entries()) {
      const dep = hashOf(DEP_FIELDS, replies[position]);
      const upstream = parseExecutionId(dep.upstream_execution_id);
      if (dep.state !== "impossible" || !upstream.ok) continue;
      const resolvedAt = parseTime(dep.last_resolved_at) ?? Number.POSITIVE_INFINITY;
      const isExact = dep.last_resolved_at === completedAt;
      if (
        best === undefined ||
        (isExact && !best.isExact) ||
        (isExact === best.isExact && resolvedAt < best.resolvedAt)
      ) {
        best = { edge: { edge, upstream: upstream.value }, resolvedAt, isExact };
      }
    }
  });
  return best?.edge;
}

/** The cause of a skip, in words. */
export function skipCause(skip: Skip): Cause {
  const { root_execution_id: root, root_task: task, root_reason: reason, chain } = skip;
  if (root === "") {
    return cause(
      "skipped",
      `It was skipped because a dependency could not be satisfied${chain.length === 0 ? ". Its edges do not say which" : ""}. ` +
        "The root failure is not known: records of the chain are missing, or were replayed since.",
      { involved: { executions: chain.map((link) => link.execution_id) } },
    );
  }
  const levels = chain.findIndex((link) => link.execution_id === root) + 1;
  const distance =
    levels === 0 ? "" : levels === 1 ? ", which it depends on" : `, ${plural(levels, "level")} above`;
  const next = [
    sluice("replay", root, "--descendants", "--dry-run"),
    sluice("replay", root, "--descendants"),
    sluice("explain", root),
  ];
  return cause(
    "skipped",
    `It was skipped because of ${nameOf(root, task)}${distance}: ${reason || "it ended without a reason"}.`,
    { involved: { executions: [root] }, next },
  );
}
