/**
 * Cancels the siblings of the groups that this batch decided (14-KEYS edition), and publishes their completions.
 *
 * A sibling's completion goes through the queue like that of a skipped child: the sibling may have other children, which
 * must be skipped. Everything may be repeated. The group stays pending until each sibling is cancelled and the queue has
 * accepted its completion. What is not finished here, the reconciler's task `cancellations` finishes, so a failure does not
 * fail the message.
 */

import type { CancelPorts, CancelRequest } from "#shared/cancellation/cancel-executions.ts";
import { cancelSiblings, markPublished, type SiblingState } from "#shared/cancellation/cancel-siblings.ts";
import {
  type DecidedGroup,
  drainGroups,
  releaseGroups,
  type TakenGroup,
  takeGroups,
} from "#shared/cancellation/sibling-groups.ts";
import { command } from "#shared/contract/command.ts";
import type { ExecutionId } from "#shared/contract/ids.ts";
import { pairResults } from "#shared/contract/results.ts";
import { claimTtlMs, type PublishPorts } from "#shared/dispatch/publish-cascades.ts";
import { type ChildToResolve, type CompletedExecution, isShallower } from "#shared/dispatch/types.ts";
import { PublishError, type SluiceError, ValkeyError } from "#shared/errors.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import { METRICS, traceFields } from "#shared/runtime/telemetry.ts";
import { chunked, noResult } from "#shared/valkey/batches.ts";

export type CancelGroupsPorts = CancelPorts & PublishPorts;

/** Siblings that are cancelled between two checks of the deadline. */
const SLICE = 500;
/** A slice begins only if the remaining time is longer than this many of the slowest slices so far. */
const RESERVED_SLICES = 2;

/** A group that may be pending. */
interface Group extends DecidedGroup {
  /** The completion that decided it: the sibling's completion has its root and is one level deeper. */
  readonly cause: CompletedExecution;
}

interface Sibling extends CancelRequest {
  /** All groups that list it. */
  readonly groups: Group[];
}

/** What is left of a group: undefined if all its siblings are done. */
type Obstacle = SluiceError | "out_of_time" | undefined;

/**
 * Cancels the siblings of the children whose group is pending. `children` are those whose call has just decided their
 * group, or may have done so in an earlier delivery. Takes one round trip if none of them has a pending group.
 */
export async function cancelDecidedGroups(
  ports: CancelGroupsPorts,
  children: readonly ChildToResolve[],
): Promise<void> {
  const pending = await findPending(ports, groupsOf(children));
  if (pending.length === 0) return;
  const taken = pairResults(
    pending,
    await takeGroups(ports.valkey, pending, claimTtlMs(ports)),
    (): TakenGroup => ({ kind: "failed", error: new ValkeyError("the group has no result") }),
  );
  const obstacles = new Map<Group, Obstacle>();
  const siblings = new Map<ExecutionId, Sibling>();
  for (const { item: group, result } of taken) {
    if (result.kind === "failed") obstacles.set(group, result.error);
    if (result.kind !== "taken") continue;
    obstacles.set(group, undefined);
    for (const id of result.siblings) {
      const known = siblings.get(id);
      if (known === undefined) siblings.set(id, { id, reason: result.reason, groups: [group] });
      else known.groups.push(group);
    }
  }
  await cancelAll(ports, [...siblings.values()], obstacles);
  await endGroups(ports, obstacles);
}

/** One group per child. If several edges of the batch lead to a child, the shallowest is its cause. */
function groupsOf(children: readonly ChildToResolve[]): Group[] {
  const groups = new Map<string, Group>();
  for (const { edge, child } of children) {
    const { partition, id } = child;
    const flow = edge.flow.under(partition);
    const group = { flow, index: edge.flowIndex.under(partition), child: id, cause: edge.execution };
    const known = groups.get(entryOf(group));
    if (known === undefined || isShallower(group.cause, known.cause)) groups.set(entryOf(group), group);
  }
  return [...groups.values()];
}

/** The group's entry in the index. */
function entryOf({ flow, child }: DecidedGroup): string {
  return `${flow.id}|${child}`;
}

/** The groups that the index lists. If an index cannot be read, its groups are left to the reconciler. */
async function findPending(ports: CancelGroupsPorts, groups: readonly Group[]): Promise<Group[]> {
  const byIndex = [...Map.groupBy(groups, ({ index }) => index.pendingCancelGroups).entries()];
  const replies = await ports.valkey.pipelined(
    byIndex.flatMap(([key, [first, ...others]]) =>
      first === undefined
        ? []
        : command(first.flow.partition, "smismember", key, ...[first, ...others].map(entryOf)),
    ),
  );
  return pairResults(byIndex, replies, noResult).flatMap(({ item: [key, members], result }) => {
    if (!result.ok) {
      const reason = result.error.message;
      ports.telemetry.warn("decided groups not read: the reconciler cancels their siblings", { key, reason });
      return [];
    }
    const found: readonly unknown[] = Array.isArray(result.value) ? result.value : [];
    return members.filter((_, position) => found[position] === 1);
  });
}

/** Cancels the siblings slice by slice, and records in `obstacles` which groups cannot be drained. */
async function cancelAll(
  ports: CancelGroupsPorts,
  siblings: readonly Sibling[],
  obstacles: Map<Group, Obstacle>,
): Promise<void> {
  let slowestMs = 0;
  let cancelled = 0;
  for (const slice of chunked(siblings, () => 1, SLICE)) {
    const begunMs = ports.now();
    const hasTime = begunMs + RESERVED_SLICES * slowestMs < ports.deadlineMs;
    const results: readonly SliceResult[] = hasTime ? await cancelSlice(ports, slice) : [];
    for (const { item, result } of pairResults(slice, results, () => OUT_OF_TIME)) {
      if (result.isCancelledNow) cancelled += 1;
      if (result.obstacle === undefined) continue;
      for (const group of item.groups) obstacles.set(group, result.obstacle);
    }
    slowestMs = Math.max(slowestMs, ports.now() - begunMs);
  }
  if (cancelled > 0) ports.telemetry.count(METRICS.siblingsCancelled, cancelled);
}

interface SliceResult {
  readonly obstacle: Obstacle;
  readonly isCancelledNow: boolean;
}

const OUT_OF_TIME: SliceResult = { obstacle: "out_of_time", isCancelledNow: false };

/** Cancels siblings, publishes those that are not published, and marks them: one result per sibling. */
async function cancelSlice(ports: CancelGroupsPorts, slice: readonly Sibling[]): Promise<SliceResult[]> {
  const states = pairResults(slice, await cancelSiblings(ports, slice), noState);
  const unpublished = states.flatMap(({ item, result }) =>
    result.kind === "unpublished" ? [{ item, completedAt: result.completedAt }] : [],
  );
  const sent = pairResults(
    unpublished,
    await ports.publisher.send(
      unpublished.map(({ item }) => completionOf(item)),
      ports.deadlineMs,
    ),
    ({ item }): SendResult => ({ ok: false, error: new PublishError(`no result for sibling ${item.id}`) }),
  );
  await markPublished(
    ports.valkey,
    sent.flatMap(({ item: { item, completedAt }, result }) =>
      result.ok ? [{ keys: ports.router.execKeys(item.id), completedAt }] : [],
    ),
  );
  const errors = new Map(sent.map(({ item, result }) => [item.item, result.ok ? undefined : result.error]));
  return states.map(({ item, result }): SliceResult => {
    if (result.kind === "failed") return { obstacle: result.error, isCancelledNow: false };
    return { obstacle: errors.get(item), isCancelledNow: result.isCancelledNow };
  });
}

function completionOf({ id, groups }: Sibling) {
  const [first, ...others] = groups.map(({ cause }) => cause);
  if (first === undefined) throw new Error(`sibling ${id} has no group`);
  const cause = others.reduce((lowest, other) => (isShallower(other, lowest) ? other : lowest), first);
  const { flowId, depth, generation, root, traceparent } = cause;
  return {
    executionId: id,
    flowId,
    outcome: "cancelled",
    depth: depth + 1,
    generation,
    root,
    ...(traceparent === undefined ? {} : { traceparent }),
  };
}

/**
 * Drains the groups whose siblings are all done. The others keep their siblings, and their claims end: at once, so that the
 * next attempt may begin, but by themselves after a send without an answer, because the queue may have accepted it.
 */
async function endGroups(ports: CancelGroupsPorts, obstacles: ReadonlyMap<Group, Obstacle>): Promise<void> {
  const done = [...obstacles].flatMap(([group, obstacle]) => (obstacle === undefined ? [group] : []));
  const left = [...obstacles].flatMap(([group, obstacle]) =>
    obstacle === undefined ? [] : [{ group, obstacle }],
  );
  const undrained = await drainGroups(ports.valkey, done);
  await releaseGroups(
    ports.valkey,
    left.flatMap(({ group, obstacle }) => (isUnanswered(obstacle) ? [] : [group])),
  );
  for (const { group, obstacle } of left) {
    ports.telemetry.warn("siblings of a decided group not all cancelled: the reconciler continues", {
      ...traceFields(group.cause),
      child: group.child,
      reason: obstacle instanceof Error ? obstacle.message : "out of time",
    });
  }
  const count = left.length + undrained.length;
  if (count > 0) ports.telemetry.count(METRICS.groupsLeft, count);
}

function isUnanswered(obstacle: Obstacle): boolean {
  return obstacle instanceof PublishError && obstacle.outcome === "unknown";
}

function noState(): SiblingState {
  return { kind: "failed", error: new ValkeyError("the sibling has no state") };
}
