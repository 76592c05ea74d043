/** Round trip 4: `ff_resolve_dependency` for each child, and what each reply means. */

import { command, type Pipelines, type ValkeyResult } from "#shared/contract/command.ts";
import { decodeResolution, type Resolution, resolveDependency } from "#shared/contract/resolve.ts";
import { pairResults } from "#shared/contract/results.ts";
import { type ChildRead, notRead, readStates } from "#shared/dispatch/children.ts";
import {
  type ChildState,
  type ChildToResolve,
  DONE,
  type EdgeResult,
  type EdgeToResolve,
  failed,
  type ReadyChild,
  type SkippedChild,
} from "#shared/dispatch/types.ts";
import { RefusedError, type SluiceError, ValkeyError } from "#shared/errors.ts";
import type { Readiness } from "#shared/ready/readiness.ts";
import { METRICS, type MetricName, type Telemetry } from "#shared/runtime/telemetry.ts";
import { noResult } from "#shared/valkey/batches.ts";

const SKIPPED = "skipped";
const ELIGIBLE = "eligible_now";
const NOT_APPLIED = "invalid_dependency";
const UPSTREAM_CHANGED = "upstream_changed";

export interface ResolvePorts {
  readonly valkey: Pipelines;
  readonly telemetry: Telemetry;
  /** Loads the library on primaries that lack it. */
  readonly ensureLibrary: () => Promise<void>;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
}

/** The state of one edge after its call: a final result, or a child that must be published or announced first. */
export type ResolvedEdge =
  | { readonly edge: EdgeToResolve; readonly result: EdgeResult }
  | { readonly edge: EdgeToResolve; readonly skipped: SkippedChild }
  | { readonly edge: EdgeToResolve; readonly ready: ReadyChild };

export interface Resolved {
  /** One per edge. */
  readonly edges: readonly ResolvedEdge[];
  /**
   * Children whose edge decides, or has decided, whether they run, in partitions with pending groups: their group may have
   * siblings to cancel. Empty in a partition without groups.
   */
  readonly mayHaveSiblings: readonly ChildToResolve[];
}

/**
 * Resolves the edge of every child: one result per edge. A child must be published when this call skipped it, or when
 * an earlier delivery skipped it and its mark is missing.
 *
 * The calls for a chunk of children are sent as soon as that chunk is read.
 */
export async function resolveChildren(
  ports: ResolvePorts,
  chunks: readonly Promise<readonly ChildRead[]>[],
): Promise<Resolved> {
  const calls = await callAll(ports, chunks);
  const counts = new Map<MetricName, number>();
  const resolved: ResolvedEdge[] = [];
  const mayHaveSiblings: ChildToResolve[] = [];
  const resolvedBefore: ChildToResolve[] = [];
  for (const call of calls) {
    if ("result" in call) {
      resolved.push(call);
      continue;
    }
    const { child, nowMs, reply, eligibility } = call;
    const { edge } = child;
    if (isUpstreamChanged(reply)) {
      resolved.push({ edge, result: { kind: "upstream_changed" } });
      continue;
    }
    const resolution = interpret(reply);
    if (resolution instanceof Error) {
      resolved.push({ edge, result: failed(resolution) });
      continue;
    }
    for (const metric of metricsOf(resolution)) counts.set(metric, (counts.get(metric) ?? 0) + 1);
    // `pending` and `already_fired` did not decide the group: whichever call did takes care of its siblings.
    if (call.hasPendingGroups && resolution.kind !== "pending" && resolution.kind !== "already_fired") {
      mayHaveSiblings.push(child);
    }
    const ready = readinessOf(child, eligibility);
    if (ready instanceof Error) resolved.push({ edge, result: failed(ready) });
    else if (ready !== undefined) resolved.push({ edge, ready: { cause: child, readiness: ready } });
    else if (resolution.kind === "already_resolved") resolvedBefore.push(child);
    else if (resolution.kind === "impossible" && resolution.childSkipped) {
      resolved.push({ edge, skipped: { cause: child, completedAt: String(nowMs), isInherited: false } });
    } else resolved.push({ edge, result: DONE });
  }
  // One value per metric and window: each value is written to the log.
  for (const [metric, value] of counts) ports.telemetry.count(metric, value);
  const edges = [...resolved, ...(await findUnpublished(ports.valkey, resolvedBefore))];
  return { edges, mayHaveSiblings };
}

/** One call of `ff_resolve_dependency`. */
interface Call {
  readonly child: ChildToResolve;
  /** The call's `now_ms`, in milliseconds since the epoch. It becomes the `completed_at` of a child that the call skips. */
  readonly nowMs: number;
  readonly reply: ValkeyResult;
  /** Whether the child's partition had groups with siblings to cancel after the call, or could not tell. */
  readonly hasPendingGroups: boolean;
  /** The child's `eligibility_state` after the call. Undefined if the child is not announced. */
  readonly eligibility: ValkeyResult | undefined;
}

type FinalEdge = Extract<ResolvedEdge, { result: EdgeResult }>;

/** Calls the function for all children. If a primary lacks the library or has an old one, loads it and repeats the call. */
async function callAll(
  ports: ResolvePorts,
  chunks: readonly Promise<readonly ChildRead[]>[],
): Promise<(Call | FinalEdge)[]> {
  const first = (
    await Promise.all(
      chunks.map(async (chunk) => {
        const reads = await chunk;
        const children = reads.flatMap((read) => ("child" in read ? [read.child] : []));
        return [...reads.filter((read) => "result" in read), ...(await callOnce(ports, children))];
      }),
    )
  ).flat();
  const isMissing = (call: Call | FinalEdge): call is Call => "reply" in call && needsLibrary(call.reply);
  const missing = first.filter(isMissing);
  if (missing.length === 0) return first;
  const others = first.filter((call) => !isMissing(call));
  try {
    await ports.ensureLibrary();
  } catch (error) {
    const result = failed(new ValkeyError("loading the Valkey library failed", { cause: error }));
    return [...others, ...missing.map(({ child: { edge } }) => ({ edge, result }))];
  }
  const again = await callOnce(
    ports,
    missing.map(({ child }) => child),
  );
  return [...others, ...again];
}

/**
 * Calls the function for each child. The replies do not tell whether a decided group has siblings to cancel, so the same
 * pipeline then counts the pending groups of each partition: usually 0, and nothing more is read.
 */
async function callOnce(ports: ResolvePorts, children: readonly ChildToResolve[]): Promise<Call[]> {
  const nowMs = ports.now();
  const indexes = new Map(
    children.map(({ edge, child }) => [child.partition, edge.flowIndex.under(child.partition)]),
  );
  const calls = children.map(({ edge, child, lane, attempt }) =>
    resolveDependency(
      { ...edge, upstream: edge.execution.executionId, child, lane, attempt },
      edge.upstream,
      nowMs,
    ),
  );
  // Each read follows its call in the same pipeline, and so sees what the call wrote. The reply alone does not tell whether
  // the child can run: it may wait for other edges or for a delay.
  const announced = children.filter(({ readiness }) => readiness !== undefined);
  const replies = await ports.valkey.pipelined([
    ...calls,
    ...[...indexes].map(([partition, index]) => command(partition, "scard", index.pendingCancelGroups)),
    ...announced.map(({ child }) => command(child.partition, "hget", child.core, "eligibility_state")),
  ]);
  const counts = pairResults([...indexes.keys()], replies.slice(children.length), noResult);
  const withPending = new Set(
    counts.flatMap(({ item, result }) => (result.ok && result.value === 0 ? [] : [item])),
  );
  const reads = replies.slice(children.length + indexes.size);
  const eligibilities = new Map(
    pairResults(announced, reads, noResult).map(({ item, result }) => [item, result]),
  );
  return pairResults(children, replies, noResult).map(({ item: child, result: reply }) => ({
    child,
    nowMs,
    reply,
    hasPendingGroups: withPending.has(child.child.partition),
    eligibility: eligibilities.get(child),
  }));
}

/** Returns how to announce a child that can run now; undefined if it cannot, or if there is no need. */
function readinessOf(
  { child, readiness }: ChildToResolve,
  eligibility: ValkeyResult | undefined,
): Readiness | SluiceError | undefined {
  if (eligibility === undefined) return undefined;
  if (!eligibility.ok) {
    return new ValkeyError(`reading child ${child.id} after its call failed`, { cause: eligibility.error });
  }
  return eligibility.value === ELIGIBLE ? readiness : undefined;
}

/** Errors of a primary that lacks the library, or has that of release 0.1, which rejects surplus KEYS. */
const LIBRARY_NEEDED = /^ERR Function not found|ff_resolve_dependency takes \d+ KEYS, not \d+/;

function needsLibrary(reply: ValkeyResult): boolean {
  return !reply.ok && LIBRARY_NEEDED.test(reply.error.message);
}

function isUpstreamChanged(reply: ValkeyResult): boolean {
  if (!reply.ok) return false;
  const resolution = decodeResolution(reply.value);
  return resolution.ok && resolution.value.kind === "refused" && resolution.value.code === UPSTREAM_CHANGED;
}

function interpret(reply: ValkeyResult): Exclude<Resolution, { kind: "refused" }> | SluiceError {
  if (!reply.ok) return new ValkeyError("ff_resolve_dependency failed", { cause: reply.error });
  const resolution = decodeResolution(reply.value);
  if (!resolution.ok) return resolution.error;
  const { value } = resolution;
  if (value.kind !== "refused") return value;
  // The edge is staged but not applied to the child yet: its submitter is about to do that.
  return new RefusedError("ff_resolve_dependency", value.code, value.detail, value.code === NOT_APPLIED);
}

function metricsOf(resolution: Exclude<Resolution, { kind: "refused" }>): readonly MetricName[] {
  switch (resolution.kind) {
    case "satisfied":
      return [METRICS.edgesSatisfied];
    case "impossible":
      return resolution.childSkipped
        ? [METRICS.edgesImpossible, METRICS.childrenSkipped]
        : [METRICS.edgesImpossible];
    case "already_resolved":
      return [METRICS.edgesAlreadyResolved];
    case "pending":
    case "already_fired":
      return [METRICS.edgesCountedInGroup];
  }
}

/**
 * Finds the children to publish among those whose edge was resolved before this call: they are skipped, and not marked
 * for that skip. If a child had not ended when its record was read, the record is read again: another delivery of the same
 * message may have skipped the child since, and died before publishing it.
 */
async function findUnpublished(
  valkey: Pipelines,
  children: readonly ChildToResolve[],
): Promise<ResolvedEdge[]> {
  const isOpen = ({ lane, state }: ChildToResolve): boolean => lane !== undefined && !hasEnded(state);
  const ended = children.filter((child) => !isOpen(child)).map((child) => publishedOrDue(child, child.state));
  const open = children.filter(isOpen);
  if (open.length === 0) return ended;
  const states = await readStates(
    valkey,
    open.map(({ child }) => child),
  );
  const reread = pairResults(open, states, ({ child }) => notRead(child)).map(
    ({ item, result }): ResolvedEdge =>
      result.ok ? publishedOrDue(item, result.state) : { edge: item.edge, result: failed(result.error) },
  );
  return [...ended, ...reread];
}

function publishedOrDue(cause: ChildToResolve, state: ChildState): ResolvedEdge {
  const isDue = state.outcome === SKIPPED && state.publishedFor !== state.completedAt;
  return isDue
    ? { edge: cause.edge, skipped: { cause, completedAt: state.completedAt, isInherited: true } }
    : { edge: cause.edge, result: DONE };
}

function hasEnded({ outcome }: ChildState): boolean {
  return outcome !== "" && outcome !== "none";
}
