/** Step 5 for children that can run: announces them to the workers of their lanes, and marks them as announced. */

import type { Pipelines } from "#shared/contract/command.ts";
import { pairResults } from "#shared/contract/results.ts";
import { DONE, type EdgeResult, failed, type ReadyChild } from "#shared/dispatch/types.ts";
import { PublishError } from "#shared/errors.ts";
import { writeMarks } from "#shared/ready/marks.ts";
import type { ReadyExecution } from "#shared/ready/message.ts";
import type { ReadyPublisher } from "#shared/ready/publisher.ts";
import { METRICS, type Telemetry } from "#shared/runtime/telemetry.ts";
import { noResult } from "#shared/valkey/batches.ts";

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
  const answers = await ready.announce(
    groups.flatMap(([first]) => (first === undefined ? [] : [messageOf(first)])),
    ports.deadlineMs,
  );
  const sent = pairResults(groups, answers, () => ({
    ok: false as const,
    error: new PublishError("the publisher returned no result for a ready message"),
  }));
  const announced = sent.flatMap(({ item: [first], result }) => (result.ok && first ? [first] : []));
  ports.telemetry.count(METRICS.readyAnnounced, announced.length);
  await mark(ports, announced);
  const results = new Map(
    sent.flatMap(({ item, result }) =>
      item.map((one): readonly [ReadyChild, EdgeResult] => [one, result.ok ? DONE : failed(result.error)]),
    ),
  );
  return children.map(
    (one) => results.get(one) ?? failed(new PublishError(`${one.cause.child.id} was not announced`)),
  );
}

function messageOf({ cause, readiness }: ReadyChild): ReadyExecution {
  const { flowId, root, traceparent } = cause.edge.execution;
  return {
    executionId: cause.child.id,
    flowId,
    lane: readiness.lane,
    kind: readiness.kind,
    root,
    ...(traceparent === undefined ? {} : { traceparent }),
  };
}

async function mark({ valkey, telemetry }: AnnouncePorts, announced: readonly ReadyChild[]): Promise<void> {
  const flows = Map.groupBy(announced, ({ cause }) => `${cause.child.partition} ${cause.edge.flow.id}`);
  const commands = [...flows.values()].flatMap((children) => {
    const [first] = children;
    if (first === undefined) return [];
    const { child, edge } = first.cause;
    return writeMarks(
      child.partition,
      edge.flow.id,
      children.map(({ cause, readiness }) => ({
        executionId: cause.child.id,
        eligibility: readiness.eligibility,
      })),
    );
  });
  const replies = await valkey.pipelined(commands);
  const failure = pairResults(commands, replies, noResult).find(({ result }) => !result.ok);
  // Not a failure: the children are announced. Without a mark, a redelivery announces them again, which changes nothing.
  if (failure && !failure.result.ok) {
    telemetry.count(METRICS.marksFailed);
    telemetry.warn("marks of ready messages not written: a redelivery may send them again", {
      reason: failure.result.error.message,
    });
  }
}
