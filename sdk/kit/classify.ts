/** Reads the records behind ready messages in one round trip, and decides what to do with each message. */

import type { AnyTask } from "#sdk/kit/define-task.ts";
import type { TaskRegistry } from "#sdk/kit/registry.ts";
import { listOf } from "#sdk/worker/leasing.ts";
import { command, type Pipelines, type ValkeyCommand, type ValkeyResult } from "#shared/contract/command.ts";
import {
  type AttemptIndex,
  type FlowId,
  parseAttemptIndex,
  parseLaneId,
  parseStoredFlowId,
  unwrap,
} from "#shared/contract/ids.ts";
import type { Target } from "#shared/contract/ownership.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText, isTerminalOutcome, parseTime, type TerminalOutcome } from "#shared/contract/record.ts";
import { InvalidRecordError, ValkeyError } from "#shared/errors.ts";
import type { ReadyExecution } from "#shared/ready/message.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";

/** What a worker must know of an execution before it takes it. */
export interface Candidate {
  readonly ready: ReadyExecution;
  readonly target: Target;
  readonly task: AnyTask;
  readonly flowId: FlowId | undefined;
  /** How often workers lost the execution. Above 0, it may be what ended them. */
  readonly reclaims: number;
  /** The current attempt, which a reclaim ends. */
  readonly interrupted: AttemptIndex;
}

/** What to do with a ready message. */
export type Decision =
  | { readonly kind: "claim"; readonly candidate: Candidate }
  /** Its retry is due: promote it, and claim it. */
  | { readonly kind: "promote"; readonly candidate: Candidate; readonly nowMs: number }
  /** Its lease ran out or was revoked. `isMarked`: the record says so already. */
  | { readonly kind: "reclaim"; readonly candidate: Candidate; readonly isMarked: boolean }
  /** It has ended: dispatch it, which changes nothing the second time. */
  | { readonly kind: "dispatch"; readonly outcome: TerminalOutcome; readonly flowId: FlowId }
  /** Its flow is cancelled. */
  | { readonly kind: "cancel" }
  /** Nothing to do: acknowledge the message. */
  | { readonly kind: "acknowledge"; readonly reason: string }
  /** Another worker runs it, or it waits for its time: look again after `afterMs`, if the message is responsible for it. */
  | { readonly kind: "leased"; readonly leaseId: string; readonly afterMs: number }
  | { readonly kind: "delayed"; readonly afterMs: number }
  | { readonly kind: "unknown_kind"; readonly lane: string; readonly executionKind: string }
  | { readonly kind: "failed"; readonly error: Error };

const FIELDS = [
  "lifecycle_phase",
  "ownership_state",
  "eligibility_state",
  "terminal_outcome",
  "lane_id",
  "execution_kind",
  "flow_id",
  "current_lease_id",
  "lease_expires_at",
  "delay_until",
  "lease_reclaim_count",
  "current_attempt_index",
] as const;
/** Commands per message: the record, its flow's state and purge mark, and the server's time. */
const READS = 4;

/**
 * An execution that this process has just made eligible, and may take without reading its record: the library refuses the claim
 * if it has changed. Undefined if this worker has no task for it.
 */
export function justReleased(
  router: PartitionRouter,
  tasks: TaskRegistry,
  ready: ReadyExecution,
): Candidate | undefined {
  const task = tasks.find(ready.kind, ready.lane);
  if (task === undefined) return undefined;
  const keys = router.execKeys(ready.executionId);
  const target = { keys, index: router.indexKeys(keys.partition), lane: ready.lane };
  return { ready, target, task, flowId: ready.flowId, reclaims: 0, interrupted: NO_ATTEMPT };
}

const NO_ATTEMPT = unwrap(parseAttemptIndex("0"));

/** Decides about each message: one decision per message, in order. Takes one round trip. Never rejects. */
export async function classify(
  { valkey, router }: { readonly valkey: Pipelines; readonly router: PartitionRouter },
  tasks: TaskRegistry,
  messages: readonly ReadyExecution[],
): Promise<Decision[]> {
  const results = await valkey.pipelined(messages.flatMap((ready) => readsOf(router, ready)));
  return messages.map((ready, position) => {
    const own = results.slice(READS * position, READS * (position + 1));
    const failure = own.find((result) => !result.ok);
    if (own.length < READS || failure?.ok === false) {
      const cause = failure?.ok === false ? failure.error : undefined;
      return { kind: "failed", error: new ValkeyError(`reading ${ready.executionId} failed`, { cause }) };
    }
    return decide(router, tasks, ready, own);
  });
}

function readsOf(router: PartitionRouter, { executionId, flowId }: ReadyExecution): ValkeyCommand[] {
  const { partition, core } = router.execKeys(executionId);
  // Without a flow, its keys are those of a flow that does not exist: the number of replies stays the same.
  const flow = flowId === undefined ? undefined : router.flowKeys(flowId, partition);
  return [
    command(partition, "hmget", core, ...FIELDS),
    command(partition, "hget", flow?.core ?? core, "public_flow_state"),
    command(partition, "exists", flow?.purged ?? core),
    command(partition, "time"),
  ];
}

function decide(
  router: PartitionRouter,
  tasks: TaskRegistry,
  ready: ReadyExecution,
  results: readonly ValkeyResult[],
): Decision {
  const [record, flowState, purged, time] = results.map((result) => (result.ok ? result.value : undefined));
  const fields = new Map(FIELDS.map((name, at) => [name, fieldText(listOf(record)[at])]));
  const text = (name: (typeof FIELDS)[number]): string => fields.get(name) ?? "";
  const number = (name: (typeof FIELDS)[number]): number => Number(text(name)) || 0;
  const { executionId } = ready;
  if (ready.flowId !== undefined && purged === 1)
    return { kind: "acknowledge", reason: "its flow is purged" };
  if ([...fields.values()].every((value) => value === "")) {
    // Without a flow, a missing record is a purged one. In a flow, a failover may have lost the record for a moment.
    if (ready.flowId === undefined) return { kind: "acknowledge", reason: "it has no record" };
    return { kind: "failed", error: new InvalidRecordError(`${executionId} has no record`) };
  }
  const stored = text("flow_id") === "" ? undefined : parseStoredFlowId(text("flow_id"));
  if (stored?.ok === false) {
    return { kind: "failed", error: new InvalidRecordError(`${executionId}: ${stored.error.message}`) };
  }
  const flowId = stored?.value;
  if (text("lifecycle_phase") === "terminal") {
    const outcome = text("terminal_outcome");
    if (flowId === undefined || !isTerminalOutcome(outcome))
      return { kind: "acknowledge", reason: "it has ended" };
    return { kind: "dispatch", outcome, flowId };
  }
  if (flowState === "cancelled") return { kind: "cancel" };
  const lane = parseLaneId(text("lane_id"));
  const interrupted = parseAttemptIndex(text("current_attempt_index"));
  if (!lane.ok || !interrupted.ok) {
    const reason = lane.ok ? (interrupted.ok ? "" : interrupted.error.message) : lane.error.message;
    return { kind: "failed", error: new InvalidRecordError(`${executionId}: ${reason}`) };
  }
  // A message in the queue of another lane would be run beside that lane's limits.
  if (ready.lane !== lane.value || (ready.kind !== "" && ready.kind !== text("execution_kind"))) {
    const [named, stored] = [`${ready.lane}/${ready.kind}`, `${lane.value}/${text("execution_kind")}`];
    const reason = `the message names the lane and kind ${named}, the record ${stored}`;
    return { kind: "failed", error: new InvalidRecordError(`${executionId}: ${reason}`) };
  }
  const task = tasks.find(text("execution_kind"), lane.value);
  if (task === undefined) {
    return { kind: "unknown_kind", lane: lane.value, executionKind: text("execution_kind") };
  }
  const keys = router.execKeys(executionId);
  const candidate: Candidate = {
    ready,
    target: { keys, index: router.indexKeys(keys.partition), lane: lane.value },
    task,
    flowId,
    reclaims: number("lease_reclaim_count"),
    interrupted: interrupted.value,
  };
  const nowMs = serverTimeMs(time);
  if (text("lifecycle_phase") === "active") {
    const ownership = text("ownership_state");
    if (ownership === "lease_expired_reclaimable" || ownership === "lease_revoked") {
      return { kind: "reclaim", candidate, isMarked: true };
    }
    const leftMs = (parseTime(text("lease_expires_at")) ?? 0) - nowMs;
    if (ownership !== "leased") return { kind: "acknowledge", reason: `it is ${ownership}` };
    return leftMs <= 0
      ? { kind: "reclaim", candidate, isMarked: false }
      : { kind: "leased", leaseId: text("current_lease_id"), afterMs: leftMs };
  }
  switch (text("eligibility_state")) {
    case "eligible_now":
      return { kind: "claim", candidate };
    case "not_eligible_until_time": {
      const leftMs = (parseTime(text("delay_until")) ?? 0) - nowMs;
      return leftMs <= 0 ? { kind: "promote", candidate, nowMs } : { kind: "delayed", afterMs: leftMs };
    }
    default:
      return { kind: "acknowledge", reason: `it is ${text("eligibility_state")}` };
  }
}
