/** Reads the unresolved edges of an execution with their upstreams, in pages, and groups those that are alike. */

import { type ExplainContext, forEachPage, hashOf, hashRead } from "#operate/explain/read.ts";
import type { Subject } from "#operate/explain/subject.ts";
import { readAll } from "#shared/consistency/read.ts";
import { command } from "#shared/contract/command.ts";
import { type EdgeId, type ExecutionId, parseEdgeId, parseExecutionId } from "#shared/contract/ids.ts";
import { isTerminalOutcome, parseTime } from "#shared/contract/record.ts";

/** Ids that are kept of alike edges. The rest is counted. */
const MAX_EXAMPLES = 10;

/** An edge with its upstream. */
export interface EdgeUpstream {
  readonly edge: string;
  readonly upstream: ExecutionId;
}

/** Alike edges: how many, and the first of them. */
export interface EdgeGroup {
  count: number;
  readonly examples: EdgeUpstream[];
}

/** The end of an upstream that its edge does not show yet. */
export interface EndedUpstream extends EdgeUpstream {
  readonly outcome: string;
  readonly completedAt: string;
  readonly endedAtMs: number | undefined;
}

export interface Unresolved {
  /** By the `public_state` of the upstream. */
  readonly notEnded: ReadonlyMap<string, EdgeGroup>;
  /** Ended within the grace period. */
  readonly inFlight: EdgeGroup;
  /** Ended longer ago. The examples are the longest ago. */
  readonly overdue: {
    readonly count: number;
    readonly upstreams: ReadonlySet<ExecutionId>;
    readonly examples: readonly EndedUpstream[];
  };
  /** The upstream has no record. */
  readonly withoutRecord: EdgeGroup;
  readonly invalidUpstream: EdgeGroup;
  /** Edge ids whose dep record is missing, malformed or resolved, and what is wrong with the first ones. */
  readonly invalidDependency: { count: number; readonly examples: { edge: string; reason: string }[] };
  readonly isComplete: boolean;
}

const DEP_FIELDS = ["upstream_execution_id", "state"] as const;
const UPSTREAM_FIELDS = [
  "execution_id",
  "lifecycle_phase",
  "terminal_outcome",
  "public_state",
  "completed_at",
  "last_transition_at",
] as const;

type UpstreamRecord = Readonly<Record<(typeof UPSTREAM_FIELDS)[number], string>>;

/** Reads all unresolved edges, 1,000 at a time, and each upstream once. */
export async function readUnresolved(
  context: ExplainContext,
  { keys, nowMs }: Subject,
  graceMs: number,
): Promise<Unresolved> {
  const notEnded = new Map<string, EdgeGroup>();
  const [inFlight, withoutRecord, invalidUpstream] = [group(), group(), group()];
  const invalidDependency: Unresolved["invalidDependency"] = { count: 0, examples: [] };
  const overdue = { count: 0, upstreams: new Set<ExecutionId>(), examples: [] as EndedUpstream[] };
  const records = new Map<ExecutionId, UpstreamRecord>();
  const rejectEdge = (edge: string, reason: string): void => {
    invalidDependency.count += 1;
    if (invalidDependency.examples.length < MAX_EXAMPLES) invalidDependency.examples.push({ edge, reason });
  };
  const classify = (one: EdgeUpstream): void => {
    const standing = standingOf(records.get(one.upstream), nowMs, graceMs);
    if (standing.kind === "overdue") {
      overdue.count += 1;
      overdue.upstreams.add(one.upstream);
      keepOldest(overdue.examples, { ...one, ...standing.end });
    } else if (standing.kind === "not_ended") {
      const alike = notEnded.get(standing.state) ?? group();
      notEnded.set(standing.state, alike);
      add(alike, one);
    } else {
      add({ no_record: withoutRecord, invalid: invalidUpstream, in_flight: inFlight }[standing.kind], one);
    }
  };
  const unresolved = { partition: keys.partition, key: keys.depsUnresolved };
  const isComplete = await forEachPage(context, unresolved, async (members) => {
    const edges = await readEdges(context, keys, members, rejectEdge);
    const upstreams = [...new Set(edges.map(({ upstream }) => upstream))].filter((id) => !records.has(id));
    for (const { id, record } of await readUpstreams(context, upstreams)) records.set(id, record);
    for (const edge of edges) classify(edge);
  });
  return { notEnded, inFlight, overdue, withoutRecord, invalidUpstream, invalidDependency, isComplete };
}

export type Standing =
  | { readonly kind: "no_record" | "invalid" | "in_flight" }
  | { readonly kind: "not_ended"; readonly state: string }
  | { readonly kind: "overdue"; readonly end: Omit<EndedUpstream, keyof EdgeUpstream> };

export function standingOf(record: UpstreamRecord | undefined, nowMs: number, graceMs: number): Standing {
  if (record === undefined || record.execution_id === "") return { kind: "no_record" };
  const outcome = record.terminal_outcome;
  if (record.lifecycle_phase !== "terminal" || outcome === "" || outcome === "none") {
    return { kind: "not_ended", state: record.public_state || record.lifecycle_phase };
  }
  if (!isTerminalOutcome(outcome)) return { kind: "invalid" };
  const endedAtMs = parseTime(record.completed_at) ?? parseTime(record.last_transition_at);
  if (endedAtMs !== undefined && Math.abs(nowMs - endedAtMs) <= graceMs) return { kind: "in_flight" };
  return { kind: "overdue", end: { outcome, completedAt: record.completed_at, endedAtMs } };
}

/** Reads edges of an execution with their upstreams. `reject` receives those that are invalid. */
export async function readEdges(
  context: ExplainContext,
  keys: Subject["keys"],
  members: readonly string[],
  reject: (edge: string, reason: string) => void,
): Promise<EdgeUpstream[]> {
  const parsed = members.flatMap((member): EdgeId[] => {
    const edge = parseEdgeId(member);
    if (edge.ok) return [edge.value];
    reject(member, edge.error.message);
    return [];
  });
  const replies = await readAll(
    context,
    parsed.map((edge) => hashRead(keys.partition, keys.dep(edge), DEP_FIELDS)),
  );
  return parsed.flatMap((edge, position): EdgeUpstream[] => {
    const dep = hashOf(DEP_FIELDS, replies[position]);
    const upstream = parseExecutionId(dep.upstream_execution_id);
    const reason = dependencyError(dep, upstream.ok ? undefined : upstream.error.message);
    if (upstream.ok && reason === undefined) return [{ edge, upstream: upstream.value }];
    reject(edge, reason ?? "");
    return [];
  });
}

function dependencyError(
  dep: Readonly<Record<(typeof DEP_FIELDS)[number], string>>,
  idError: string | undefined,
): string | undefined {
  if (dep.state === "" && dep.upstream_execution_id === "") return "its dep record is missing";
  if (dep.state !== "unsatisfied") return `its dep record says ${dep.state || "no state"}`;
  return idError === undefined ? undefined : `its upstream_execution_id is invalid: ${idError}`;
}

/** Reads the records of upstreams. */
export async function readUpstreams(
  context: Pick<ExplainContext, "valkey" | "router">,
  ids: readonly ExecutionId[],
): Promise<{ readonly id: ExecutionId; readonly record: UpstreamRecord }[]> {
  const replies = await readAll(
    context,
    ids.map((id) => {
      const { partition, core } = context.router.execKeys(id);
      return command(partition, "hmget", core, ...UPSTREAM_FIELDS);
    }),
  );
  return ids.map((id, position) => ({ id, record: hashOf(UPSTREAM_FIELDS, replies[position]) }));
}

function group(): EdgeGroup {
  return { count: 0, examples: [] };
}

function add(alike: EdgeGroup, one: EdgeUpstream): void {
  alike.count += 1;
  if (alike.examples.length < MAX_EXAMPLES) alike.examples.push(one);
}

/** An end without a time counts as the longest ago. */
function keepOldest(examples: EndedUpstream[], one: EndedUpstream): void {
  examples.push(one);
  examples.sort((left, right) => (left.endedAtMs ?? 0) - (right.endedAtMs ?? 0));
  if (examples.length > MAX_EXAMPLES) examples.pop();
}
