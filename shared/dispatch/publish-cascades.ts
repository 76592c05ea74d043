/** Step 5: publishes the skipped children one level deeper, and marks them as published. */

import { command, type Pipelines } from "#shared/contract/command.ts";
import { CASCADE_MARK_TTL_SECONDS } from "#shared/contract/keys.ts";
import { pairResults } from "#shared/contract/results.ts";
import {
  DEFERRED,
  DONE,
  type EdgeResult,
  failed,
  isShallower,
  type SkippedChild,
} from "#shared/dispatch/types.ts";
import { CascadeInProgressError, PublishError, ValkeyError } from "#shared/errors.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { METRICS, type Telemetry } from "#shared/runtime/telemetry.ts";
import { noResult } from "#shared/valkey/batches.ts";

/** Children that are published between two checks of the deadline. */
const SLICE = 500;
/** How long a child is claimed, in milliseconds, by an invocation without a deadline. */
const CLAIM_TTL_MS = 10_000;

export interface PublishPorts {
  readonly valkey: Pipelines;
  readonly publisher: CompletionPublisher;
  readonly telemetry: Telemetry;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** Publishing stops at this time: milliseconds since the epoch. */
  readonly deadlineMs: number;
}

/** The edges of a batch that skipped the same child, or found it unpublished. It is published once, for all of them. */
type ChildGroup = readonly [SkippedChild, ...SkippedChild[]];

/**
 * Publishes the completion of every skipped child, then marks the child: one result per skipped child, in order.
 *
 * The mark is written after the queue accepted the message. If the process dies in between, the child is published twice,
 * which changes nothing; marking first would lose the cascade. If it is unknown whether the queue accepted a child, its
 * edge fails: the redelivery finds no mark and publishes the child.
 *
 * If a share p of the queue's responses is lost, each child is published about 1 / (1 - p) times, at any depth: one
 * delivery after the other publishes it, until one of them gets a response and sets the mark.
 */
export async function publishCascades(
  ports: PublishPorts,
  skipped: readonly SkippedChild[],
): Promise<EdgeResult[]> {
  const groups = groupByChild(skipped);
  const results = new Map<ChildGroup, EdgeResult>();
  const claimed: ChildGroup[] = [];
  for (const { item: group, result } of await claim(ports, groups)) {
    if (result === undefined) claimed.push(group);
    else results.set(group, result);
  }
  const marking: Promise<void>[] = [];
  for (let start = 0; start < claimed.length; start += SLICE) {
    const slice = claimed.slice(start, start + SLICE);
    if (start > 0 && ports.now() >= ports.deadlineMs) {
      for (const group of claimed.slice(start)) results.set(group, DEFERRED);
      break;
    }
    const sent = await publish(ports, slice);
    for (const { item, result } of sent) results.set(item, result);
    // The next slice is sent while this one is marked.
    marking.push(mark(ports, sent));
  }
  await Promise.all(marking);
  const groupOf = new Map(groups.flatMap((group) => group.map((one) => [one, group] as const)));
  return skipped.map((one) => {
    const group = groupOf.get(one);
    return (
      (group && results.get(group)) ??
      failed(new PublishError(`the cascade of ${one.cause.child.id} was not published`))
    );
  });
}

/** A group and the result of publishing its child. */
interface GroupResult {
  readonly item: ChildGroup;
  readonly result: EdgeResult;
}

async function publish(ports: PublishPorts, groups: readonly ChildGroup[]): Promise<GroupResult[]> {
  const answers = await ports.publisher.send(
    groups.map((group) => {
      const { child, edge } = shallowest(group).cause;
      const { flowId, depth, generation, root, traceparent } = edge.execution;
      return {
        executionId: child.id,
        flowId,
        outcome: "skipped",
        depth: depth + 1,
        generation,
        root,
        ...(traceparent === undefined ? {} : { traceparent }),
      };
    }),
    ports.deadlineMs,
  );
  const paired = pairResults(groups, answers, ([{ cause }]) => ({
    ok: false,
    error: new PublishError(`the publisher returned no result for ${cause.child.id}`),
  }));
  ports.telemetry.count(METRICS.cascadesPublished, paired.filter(({ result }) => result.ok).length);
  return paired.map(({ item, result }) => ({ item, result: result.ok ? DONE : failed(result.error) }));
}

/** Depth, root and traceparent of a message come from one execution of the batch: the shallowest. */
function shallowest(group: ChildGroup): SkippedChild {
  return group.reduce((lowest, one) =>
    isShallower(one.cause.edge.execution, lowest.cause.edge.execution) ? one : lowest,
  );
}

/**
 * Claims the children that another delivery skipped. A child that a further delivery has claimed gets a failure.
 *
 * Without claims, each of several concurrent deliveries of one message would find the child unpublished and publish it,
 * and the copies would multiply at every level. The delivery that skipped the child publishes it without a claim, so that
 * one skip is published at most twice.
 */
async function claim(
  ports: PublishPorts,
  groups: readonly ChildGroup[],
): Promise<{ readonly item: ChildGroup; readonly result: EdgeResult | undefined }[]> {
  const inherited = groups.filter(isInherited);
  const replies = await ports.valkey.pipelined(
    inherited.map(([{ cause, completedAt }]) =>
      command(
        cause.child.partition,
        "set",
        cause.child.cascadeClaim,
        completedAt,
        "NX",
        "PX",
        claimTtlMs(ports),
      ),
    ),
  );
  const results = new Map(
    pairResults(inherited, replies, noResult).map(({ item, result }) => {
      if (!result.ok)
        return [item, failed(new ValkeyError("claiming a cascade failed", { cause: result.error }))];
      if (result.value === "OK") return [item, undefined];
      const { id } = item[0].cause.child;
      return [
        item,
        failed(new CascadeInProgressError(`the cascade of ${id} is being published by another delivery`)),
      ];
    }),
  );
  return groups.map((item) => ({ item, result: results.get(item) }));
}

/** After its deadline, a delivery publishes nothing. Its message stays invisible for longer than that. */
export function claimTtlMs({ now, deadlineMs }: Pick<PublishPorts, "now" | "deadlineMs">): number {
  const leftMs = Math.ceil(deadlineMs - now());
  return Number.isFinite(leftMs) ? Math.max(1, leftMs) : CLAIM_TTL_MS;
}

function isInherited(group: ChildGroup): boolean {
  return group.every((one) => one.isInherited);
}

function groupByChild(skipped: readonly SkippedChild[]): ChildGroup[] {
  const groups = new Map<string, [SkippedChild, ...SkippedChild[]]>();
  for (const one of skipped) {
    const group = groups.get(one.cause.child.id);
    if (group === undefined) groups.set(one.cause.child.id, [one]);
    else group.push(one);
  }
  return [...groups.values()];
}

/**
 * Marks the published children. Deletes the claims of those that the queue refused, so that a redelivery may publish
 * them at once. If the outcome of a send is unknown, the claim stays until it expires: the queue may have accepted the
 * message, and copies of a message multiply at every level of the cascade.
 */
async function mark({ valkey, telemetry }: PublishPorts, sent: readonly GroupResult[]): Promise<void> {
  const published = sent.filter(({ result }) => result.kind === "done").map(({ item }) => item);
  const refused = sent.filter(({ result }) => isRefused(result)).map(({ item }) => item);
  const replies = await valkey.pipelined([
    ...published.map(([{ cause, completedAt }]) =>
      command(cause.child.partition, "set", cause.child.cascade, completedAt, "EX", CASCADE_MARK_TTL_SECONDS),
    ),
    ...refused
      .filter(isInherited)
      .map(([{ cause }]) => command(cause.child.partition, "del", cause.child.cascadeClaim)),
  ]);
  const failure = pairResults(published, replies, noResult).find(({ result }) => !result.ok);
  // Not a failure: the child is published. Without a mark, a redelivery publishes it again, which changes nothing.
  if (failure && !failure.result.ok) {
    telemetry.count(METRICS.marksFailed);
    telemetry.warn("cascade marks not written: a redelivery may publish these children again", {
      reason: failure.result.error.message,
    });
  }
}

function isRefused(result: EdgeResult): boolean {
  return (
    result.kind === "failed" && result.error instanceof PublishError && result.error.outcome === "refused"
  );
}
