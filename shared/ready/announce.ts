/**
 * Announces executions to the workers of their lanes: sends their ready messages, and then marks them.
 *
 * The mark is written after the queue accepted the message. If the process dies in between, the caller's repetition sends the
 * message once more, which changes nothing: a second claim is refused.
 */

import { command, type Pipelines } from "#shared/contract/command.ts";
import { partitionOf } from "#shared/contract/ids.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import { pairResults } from "#shared/contract/results.ts";
import { PublishError, ValkeyError } from "#shared/errors.ts";
import { readMarks, writeMarks } from "#shared/ready/marks.ts";
import type { ReadyExecution } from "#shared/ready/message.ts";
import type { ReadyPublisher, ReadyResult } from "#shared/ready/publisher.ts";
import { parseAnnounceable, readAnnounceable } from "#shared/ready/readiness.ts";
import { chunked, noResult } from "#shared/valkey/batches.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";

/** A ready message to send, and the eligibility that it announces. */
export interface Announcement {
  readonly ready: ReadyExecution;
  readonly eligibility: string;
}

/**
 * Sends the message of each announcement, and marks those that the queue accepted. `markError`: why marks could not be
 * written. That is no failure of the executions: without a mark, they may be announced once more.
 */
export async function announce(
  { valkey, ready }: { readonly valkey: Pipelines; readonly ready: ReadyPublisher },
  announcements: readonly Announcement[],
  deadlineMs?: number,
): Promise<{ readonly results: ReadyResult[]; readonly markError: Error | undefined }> {
  if (announcements.length === 0) return { results: [], markError: undefined };
  const answers = await ready.announce(
    announcements.map((one) => one.ready),
    deadlineMs,
  );
  const sent = pairResults(announcements, answers, noAnswer);
  const accepted = sent.flatMap(({ item, result }) => (result.ok && !result.isClaimedHere ? [item] : []));
  if (accepted.length === 0) return { results: sent.map(({ result }) => result), markError: undefined };
  const flows = Map.groupBy(
    accepted,
    ({ ready: { executionId, flowId } }) => `${partitionOf(executionId)} ${flowId}`,
  );
  const commands = [...flows.values()].flatMap((group) => {
    const [first] = group;
    if (first === undefined) return [];
    const { executionId, flowId } = first.ready;
    const marks = group.map(({ ready: one, eligibility }) => ({ executionId: one.executionId, eligibility }));
    return writeMarks(partitionOf(executionId), flowId, marks);
  });
  const replies = pairResults(commands, await valkey.pipelined(commands), noResult);
  const failure = replies.find(({ result }) => !result.ok)?.result;
  return {
    results: sent.map(({ result }) => result),
    markError: failure?.ok === false ? failure.error : undefined,
  };
}

export interface AnnouncePorts {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
  readonly ready: ReadyPublisher;
}

/** An execution that may have become eligible. */
export type ToAnnounce = Pick<ReadyExecution, "executionId" | "flowId" | "root" | "traceparent">;

export type AnnounceResult =
  | { readonly kind: "announced" }
  /** It cannot be claimed, its delay is too long for a message, its lane has no queue, or it is announced already. */
  | { readonly kind: "not_needed" }
  | { readonly kind: "failed"; readonly error: Error };

const ANNOUNCED: AnnounceResult = { kind: "announced" };
const NOT_NEEDED: AnnounceResult = { kind: "not_needed" };

/**
 * Announces those of the executions that a worker can claim, now or after a delay that a message can have, and whose
 * eligibility is not marked as announced. Their records decide. One result per execution, in order. Never rejects because of
 * one execution.
 */
export async function announceUnmarked(
  ports: AnnouncePorts,
  executions: readonly ToAnnounce[],
  deadlineMs?: number,
): Promise<{ readonly results: AnnounceResult[]; readonly markError: Error | undefined }> {
  const results = new Map<ToAnnounce, AnnounceResult>();
  let markError: Error | undefined;
  for (const chunk of chunked(executions)) {
    const reads = await readUnmarked(ports, chunk);
    const unmarked = reads.flatMap(({ item, read }) => ("announcement" in read ? [{ item, ...read }] : []));
    const sent = await announce(
      ports,
      unmarked.map(({ announcement }) => announcement),
      deadlineMs,
    );
    markError ??= sent.markError;
    for (const { item, read } of reads) if ("kind" in read) results.set(item, read);
    for (const { item, result } of pairResults(unmarked, sent.results, noAnswer)) {
      results.set(item.item, result.ok ? ANNOUNCED : { kind: "failed", error: result.error });
    }
  }
  return { results: executions.map((one) => results.get(one) ?? NOT_NEEDED), markError };
}

interface UnmarkedRead {
  readonly item: ToAnnounce;
  readonly read: AnnounceResult | { readonly announcement: Announcement };
}

/** One round trip: the records, the marks of each flow, and the server's time in each partition. */
async function readUnmarked(
  { valkey, router, ready }: AnnouncePorts,
  executions: readonly ToAnnounce[],
): Promise<UnmarkedRead[]> {
  const flows = [
    ...Map.groupBy(executions, ({ executionId, flowId }) => `${partitionOf(executionId)} ${flowId}`).values(),
  ];
  const partitions = [...new Set(executions.map(({ executionId }) => partitionOf(executionId)))];
  const replies = await valkey.pipelined([
    ...executions.map(({ executionId }) => readAnnounceable(router.execKeys(executionId))),
    ...flows.flatMap((group) => {
      const [first] = group;
      if (first === undefined) return [];
      const ids = group.map(({ executionId }) => executionId);
      return [readMarks(partitionOf(first.executionId), first.flowId, ids)];
    }),
    ...partitions.map((partition) => command(partition, "time")),
  ]);
  const records = replies.slice(0, executions.length);
  const times = replies.slice(executions.length + flows.length);
  const marks = new Map<ToAnnounce, unknown>();
  // An unreadable mark counts as none: the execution is announced once more.
  for (const [at, group] of flows.entries()) {
    const reply = replies[executions.length + at];
    const values: readonly unknown[] = reply?.ok && Array.isArray(reply.value) ? reply.value : [];
    for (const [position, one] of group.entries()) marks.set(one, values[position]);
  }
  const timeOf = new Map(partitions.map((partition, at) => [partition, times[at] ?? noResult()]));
  return pairResults(executions, records, noResult).map(({ item, result: record }) => {
    const time = timeOf.get(partitionOf(item.executionId)) ?? noResult();
    const failure = record.ok ? time : record;
    if (!record.ok || !time.ok) {
      const cause = failure.ok ? undefined : failure.error;
      const error = new ValkeyError(`reading ${item.executionId} failed`, { cause });
      return { item, read: { kind: "failed", error } };
    }
    const readiness = parseAnnounceable(record.value, serverTimeMs(time.value));
    if (readiness === undefined || !ready.announces(readiness.lane)) return { item, read: NOT_NEEDED };
    const { lane, kind, eligibility, delaySeconds } = readiness;
    if (fieldText(marks.get(item)) === eligibility) return { item, read: NOT_NEEDED };
    return { item, read: { announcement: { ready: { ...item, lane, kind, delaySeconds }, eligibility } } };
  });
}

function noAnswer(): ReadyResult {
  return { ok: false, error: new PublishError("the publisher returned no result for a ready message") };
}
