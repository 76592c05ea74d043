/**
 * Sends a message for each flow that ended. An end stays in `flow_ends_unsent` until its message is accepted, so a process
 * that dies after the send sends it again: at least once.
 */

import { command } from "#shared/contract/command.ts";
import { parseStoredFlowId } from "#shared/contract/ids.ts";
import type { FlowKeys, IndexKeys } from "#shared/contract/keys.ts";
import { fieldText } from "#shared/contract/record.ts";
import { confirmFlowEnd } from "#shared/contract/retention.ts";
import { PublishError, ValkeyError } from "#shared/errors.ts";
import { acceptedText } from "#shared/queue/attributes.ts";
import type { BatchSender, QueueEntry } from "#shared/queue/batch-sender.ts";
import type { IndexEntry } from "#shared/reconcile/indexes.ts";
import { callEach, failed, KEPT, type Outcome, PROCESSED } from "#shared/reconcile/outcome.ts";
import type { TaskRun } from "#shared/reconcile/run.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { replyOrThrow } from "#shared/valkey/batches.ts";

/** The SDK's submissions record the name of their workflow. */
const FLOW_FIELDS = ["namespace", "flow_kind", "public_flow_state", "workflow_name"];
const COUNTS = [
  "total_members",
  "members_completed",
  "members_failed",
  "members_cancelled",
  "members_expired",
  "members_skipped",
] as const;
type Counts = Record<(typeof COUNTS)[number], number>;

/** The body of a message about a flow that ended. */
export interface FlowEnd extends Counts {
  readonly flow_id: string;
  readonly namespace: string;
  readonly flow_kind: string;
  /** Absent if the flow was not submitted by the SDK. */
  readonly workflow_name?: string;
  readonly state: "completed" | "failed" | "cancelled";
  /** When its last member ended: milliseconds since the epoch, by the server's clock. */
  readonly ended_at: number;
}

interface UnsentEnd {
  readonly entry: IndexEntry;
  readonly flow: FlowKeys;
  readonly index: IndexKeys;
}

/** Returns one outcome per entry of `flow_ends_unsent`, in their order. */
export async function sendFlowEnds(
  run: TaskRun,
  sender: Pick<BatchSender, "send">,
  entries: readonly IndexEntry[],
): Promise<Outcome[]> {
  const { router } = run.ports;
  const outcomes = new Map<IndexEntry, Outcome>();
  const unsent = entries.flatMap((entry): UnsentEnd[] => {
    const { partition } = entry.index;
    const id = parseStoredFlowId(entry.member);
    if (id.ok) {
      return [{ entry, flow: router.flowKeys(id.value, partition), index: router.indexKeys(partition) }];
    }
    run.reportUnreadable("end of a flow skipped: invalid id", { partition, reason: id.error.message });
    outcomes.set(entry, KEPT);
    return [];
  });
  const readable: { readonly one: UnsentEnd; readonly end: FlowEnd }[] = [];
  for (const { item, result } of await readEnds(run, unsent)) {
    if (result instanceof Error) outcomes.set(item.entry, failed(result));
    else readable.push({ one: item, end: result });
  }
  const results = await sender.send(
    readable.map(({ end }) => toEntry(end)),
    run.ports.deadlineMs,
  );
  const accepted: UnsentEnd[] = [];
  for (const [position, { one }] of readable.entries()) {
    const result = results[position];
    if (result?.ok === true) accepted.push(one);
    else outcomes.set(one.entry, failed(result?.error ?? new PublishError("the queue returned no result")));
  }
  run.count(METRICS.flowEndsSent, accepted.length);
  run.unsent += unsent.length - accepted.length;
  for (const { item, result } of await callEach(run.ports, accepted, ({ entry, flow, index }) =>
    confirmFlowEnd(flow, index, entry.score),
  )) {
    if (!result.ok) {
      // The message is sent again by the next sweep.
      outcomes.set(item.entry, failed(result.error));
      continue;
    }
    const reply = replyOrThrow(result.value);
    const isConfirmed = reply.kind === "done" && reply.fields[0] === "confirmed";
    outcomes.set(item.entry, isConfirmed ? PROCESSED : KEPT);
  }
  return entries.map(
    (entry) => outcomes.get(entry) ?? failed(new ValkeyError("the end of a flow was not read")),
  );
}

/** One round trip. Returns one message, or the reason why it cannot be read, for each end. */
async function readEnds(
  { ports }: TaskRun,
  unsent: readonly UnsentEnd[],
): Promise<{ readonly item: UnsentEnd; readonly result: FlowEnd | Error }[]> {
  const replies = await ports.valkey.pipelined(
    unsent.flatMap(({ flow }) => [
      command(flow.partition, "hmget", flow.core, ...FLOW_FIELDS),
      command(flow.partition, "hmget", flow.summary, ...COUNTS),
    ]),
  );
  return unsent.map((item, position) => {
    const [flow, summary] = [replies[2 * position], replies[2 * position + 1]];
    if (!flow?.ok || !summary?.ok) {
      const error = flow?.ok === false ? flow.error : summary?.ok === false ? summary.error : undefined;
      return { item, result: error ?? new ValkeyError("the end of a flow was not read") };
    }
    return { item, result: endOf(item, fieldsOf(flow.value), fieldsOf(summary.value)) };
  });
}

function endOf(
  { entry, flow }: UnsentEnd,
  [namespace = "", kind = "", flowState = "", name = ""]: readonly string[],
  numbers: readonly string[],
): FlowEnd {
  const counts = Object.fromEntries(COUNTS.map((name, at) => [name, Number(numbers[at] ?? 0)])) as Counts;
  const unsuccessful = counts.members_failed + counts.members_cancelled + counts.members_expired;
  return {
    flow_id: flow.id,
    namespace,
    flow_kind: kind,
    ...(name === "" ? {} : { workflow_name: name }),
    state: flowState === "cancelled" ? "cancelled" : unsuccessful > 0 ? "failed" : "completed",
    ...counts,
    ended_at: entry.score,
  };
}

function toEntry(end: FlowEnd): QueueEntry {
  return { MessageBody: acceptedText(JSON.stringify(end)) };
}

function fieldsOf(reply: unknown): string[] {
  return Array.isArray(reply) ? reply.map(fieldText) : [];
}
