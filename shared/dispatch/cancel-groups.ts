/**
 * Cancels the siblings of the groups that this batch decided (14-KEYS edition). Their completions go through the queue like
 * those of skipped children.
 *
 * What is not finished here, the reconciler's task `cancellations` finishes. So a failure does not fail the message.
 */

import type { CancelPorts } from "#shared/cancellation/cancel-executions.ts";
import {
  type CancelledSibling,
  cancelGroups,
  type SiblingPublication,
} from "#shared/cancellation/cancel-groups.ts";
import type { DecidedGroup } from "#shared/cancellation/sibling-groups.ts";
import { command } from "#shared/contract/command.ts";
import type { Completion } from "#shared/contract/message.ts";
import { pairResults } from "#shared/contract/results.ts";
import { claimTtlMs, type PublishPorts } from "#shared/dispatch/publish-cascades.ts";
import { type ChildToResolve, type CompletedExecution, isShallower } from "#shared/dispatch/types.ts";
import { PublishError } from "#shared/errors.ts";
import { METRICS, traceFields } from "#shared/runtime/telemetry.ts";
import { noResult } from "#shared/valkey/batches.ts";

export type DispatchGroupsPorts = CancelPorts & PublishPorts;

/** A slice of siblings begins only if the remaining time is longer than this many of the slowest slices so far. */
const RESERVED_SLICES = 2;

/** A group that may be pending. */
interface Group extends DecidedGroup {
  /** The completion that decided it: the siblings' completions have its root and are one level deeper. */
  readonly cause: CompletedExecution;
}

/**
 * Cancels the siblings of the children whose group is pending. `children` are those whose call has just decided their
 * group, or may have done so in an earlier delivery. Takes one round trip if none of them has a pending group.
 */
export async function cancelDecidedGroups(
  ports: DispatchGroupsPorts,
  children: readonly ChildToResolve[],
): Promise<void> {
  const groups = await findPending(ports, groupsOf(children));
  if (groups.length === 0) return;
  const { valkey, router } = ports;
  const { results, cancelled } = await cancelGroups(
    {
      valkey,
      router,
      claimTtlMs: claimTtlMs(ports),
      hasTime: timeCheck(ports),
      publish: (siblings) => publish(ports, siblings),
    },
    groups,
  );
  const left = pairResults(groups, results, () => ({ kind: "in_progress" }) as const).flatMap(
    ({ item, result }) => (result.kind === "left" ? [{ group: item, reason: result.reason }] : []),
  );
  for (const { group, reason } of left) {
    ports.telemetry.warn("siblings of a decided group not all cancelled: the reconciler continues", {
      ...traceFields(group.cause),
      child: group.child,
      reason: reason instanceof Error ? reason.message : reason,
    });
  }
  if (cancelled > 0) ports.telemetry.count(METRICS.siblingsCancelled, cancelled);
  if (left.length > 0) ports.telemetry.count(METRICS.groupsLeft, left.length);
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
async function findPending(ports: DispatchGroupsPorts, groups: readonly Group[]): Promise<Group[]> {
  const byIndex = [...Map.groupBy(groups, ({ index }) => index)];
  const replies = await ports.valkey.pipelined(
    byIndex.map(([{ partition, pendingCancelGroups }, members]) =>
      command(partition, "smismember", pendingCancelGroups, ...members.map(entryOf)),
    ),
  );
  return pairResults(byIndex, replies, noResult).flatMap(({ item: [index, members], result }) => {
    if (!result.ok) {
      ports.telemetry.warn("decided groups not read: the reconciler cancels their siblings", {
        key: index.pendingCancelGroups,
        reason: result.error.message,
      });
      return [];
    }
    const found: readonly unknown[] = Array.isArray(result.value) ? result.value : [];
    return members.filter((_, position) => found[position] === 1);
  });
}

function timeCheck({ now, deadlineMs }: PublishPorts): () => Promise<boolean> {
  let begunMs = now();
  let slowestMs = 0;
  return () => {
    slowestMs = Math.max(slowestMs, now() - begunMs);
    begunMs = now();
    return Promise.resolve(begunMs + RESERVED_SLICES * slowestMs < deadlineMs);
  };
}

async function publish(
  { publisher, deadlineMs }: PublishPorts,
  siblings: readonly CancelledSibling<Group>[],
): Promise<SiblingPublication[]> {
  const answers = await publisher.send(siblings.map(completionOf), deadlineMs);
  return pairResults(siblings, answers, ({ id }) => ({
    ok: false as const,
    error: new PublishError(`the publisher returned no result for sibling ${id}`),
  })).map(({ result }) => (result.ok ? "published" : result.error));
}

function completionOf({ id, groups }: CancelledSibling<Group>): Completion {
  const { cause } = groups.reduce((lowest, group) =>
    isShallower(group.cause, lowest.cause) ? group : lowest,
  );
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
