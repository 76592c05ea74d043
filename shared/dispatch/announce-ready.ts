/** Step 5 for children that can run: announces them to the workers of their lanes, and marks them as announced. */

import type { Pipelines } from "#shared/contract/command.ts";
import { pairResults } from "#shared/contract/results.ts";
import { DONE, type EdgeResult, failed, type ReadyChild } from "#shared/dispatch/types.ts";
import { PublishError } from "#shared/errors.ts";
import { type Announcement, announce } from "#shared/ready/announce.ts";
import type { ReadyPublisher } from "#shared/ready/publisher.ts";
import { METRICS, type Telemetry } from "#shared/runtime/telemetry.ts";

export interface AnnouncePorts {
  readonly valkey: Pipelines;
  readonly telemetry: Telemetry;
  /** Undefined: no lane has a ready queue, and workers poll. */
  readonly ready?: ReadyPublisher | undefined;
  /** Announcing stops at this time: milliseconds since the epoch. */
  readonly deadlineMs: number;
}

/**
 * Sends the ready message of each child, then marks the child: one result per child, in order.
 *
 * The mark is written after the queue accepted the message. If the process dies in between, the redelivery sends the message
 * once more, which changes nothing: a second claim is refused. If a message is not known to be accepted, its edge fails, and
 * the redelivery finds the child eligible and unmarked.
 */
export async function announceReady(
  ports: AnnouncePorts,
  children: readonly ReadyChild[],
): Promise<EdgeResult[]> {
  const { ready } = ports;
  if (children.length === 0) return [];
  if (ready === undefined) return children.map(() => DONE);
  // Several edges of a batch may release the same child: it is announced once.
  const groups = [...Map.groupBy(children, ({ cause }) => cause.child.id).values()];
  const { results: answers, markError } = await announce(
    { valkey: ports.valkey, ready },
    groups.flatMap(([first]) => (first === undefined ? [] : [announcementOf(first)])),
    ports.deadlineMs,
  );
  const sent = pairResults(groups, answers, () => ({
    ok: false as const,
    error: new PublishError("the publisher returned no result for a ready message"),
  }));
  const messages = sent.filter(({ result }) => result.ok && !result.isClaimedHere).length;
  if (messages > 0) ports.telemetry.count(METRICS.readyAnnounced, messages);
  // Not a failure: the children are announced. Without a mark, a redelivery announces them again, which changes nothing.
  if (markError !== undefined) {
    ports.telemetry.count(METRICS.marksFailed);
    ports.telemetry.warn("marks of ready messages not written: a redelivery may send them again", {
      reason: markError.message,
    });
  }
  const results = new Map(
    sent.flatMap(({ item, result }) =>
      item.map((one): readonly [ReadyChild, EdgeResult] => [one, result.ok ? DONE : failed(result.error)]),
    ),
  );
  return children.map(
    (one) => results.get(one) ?? failed(new PublishError(`${one.cause.child.id} was not announced`)),
  );
}

function announcementOf({ cause: { child, edge }, readiness }: ReadyChild): Announcement {
  const { root, traceparent } = edge.execution;
  return {
    ready: {
      executionId: child.id,
      flowId: edge.flow.id,
      lane: readiness.lane,
      kind: readiness.kind,
      root,
      ...(traceparent === undefined ? {} : { traceparent }),
    },
    eligibility: readiness.eligibility,
  };
}
