/** Cancels executions in any phase and with any lease (contract, section 13). */

import { command, type Pipelines, type ValkeyCommand, type ValkeyResult } from "#shared/contract/command.ts";
import { type ExecutionId, parseAttemptIndex, parseLaneId } from "#shared/contract/ids.ts";
import { cancelExecution } from "#shared/contract/ownership.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import { decodeReply } from "#shared/contract/reply.ts";
import { pairResults } from "#shared/contract/results.ts";
import { InvalidRecordError, RefusedError, type SluiceError, ValkeyError } from "#shared/errors.ts";
import { chunked, noResult, sendChunks } from "#shared/valkey/batches.ts";

/** What a cancellation needs. A `Connection` has it. */
export interface CancelPorts {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
}

export interface CancelRequest {
  readonly id: ExecutionId;
  /** Stored in the execution's record. */
  readonly reason: string;
}

/** The result of cancelling one execution. */
export type CancelResult =
  /** Cancelled by this call. `phase` is its phase before: `runnable`, `active` or `suspended`. */
  | { readonly kind: "cancelled"; readonly phase: string }
  /** It was terminal before. */
  | { readonly kind: "already_ended"; readonly outcome: string }
  /** It has no record: it was deleted, or never created. */
  | { readonly kind: "not_found" }
  | CancelFailure;

export interface CancelFailure {
  readonly kind: "failed";
  readonly error: SluiceError;
  /** Whether a repetition fails in the same way: the record is invalid, or the library refuses. */
  readonly isPermanent: boolean;
}

/** Ignores leases. */
const SOURCE = "operator_override";
/** Executions of one pipeline. The server needs some tens of microseconds for each. */
const CHUNK = 500;
const FIELDS = [
  "lifecycle_phase",
  "terminal_outcome",
  "lane_id",
  "current_attempt_index",
  "current_worker_instance_id",
];

/**
 * Cancels executions: one result per request, in their order. Never rejects. Takes two round trips per 500 executions: their
 * records, then the calls for those that have not ended. Repeating it is harmless.
 *
 * The call needs the lane, the attempt and the worker of the record. Sluice's library takes the worker from the record. On
 * FlowFabric's, an execution that is claimed between the two round trips stays in its worker's set of leases.
 */
export async function cancelExecutions(
  ports: CancelPorts,
  requests: readonly CancelRequest[],
): Promise<CancelResult[]> {
  const chunks = chunked(requests, () => 1, CHUNK);
  const results = await sendChunks(chunks, (chunk) => cancelChunk(ports, chunk));
  return results.flat();
}

async function cancelChunk(
  { valkey, router }: CancelPorts,
  requests: readonly CancelRequest[],
): Promise<CancelResult[]> {
  const records = await valkey.pipelined(
    requests.map(({ id }) => {
      const { partition, core } = router.execKeys(id);
      return command(partition, "hmget", core, ...FIELDS);
    }),
  );
  const plans = pairResults(requests, records, noResult).map(({ item, result }) =>
    planCall(router, item, result),
  );
  const calls = plans.filter((plan) => "command" in plan);
  const replies = await valkey.pipelined(calls.map((plan) => plan.command));
  const results = new Map(
    pairResults(calls, replies, noResult).map(({ item, result }) => [item, interpret(result)]),
  );
  return plans.map((plan) => ("result" in plan ? plan.result : (results.get(plan) ?? interpret(noResult()))));
}

type Plan = { readonly command: ValkeyCommand } | { readonly result: CancelResult };

function planCall(router: PartitionRouter, { id, reason }: CancelRequest, record: ValkeyResult): Plan {
  if (!record.ok) return { result: failed(`reading execution ${id} failed`, record.error) };
  const fields = Array.isArray(record.value) ? record.value.map(fieldText) : [];
  if (fields.every((field) => field === "")) return { result: { kind: "not_found" } };
  const [phase = "", outcome = "", laneText = "", attemptText = "", instanceId = ""] = fields;
  if (phase === "terminal") return { result: { kind: "already_ended", outcome } };
  // No default: the call would leave the execution in the indexes of its lane, or end another attempt.
  const lane = parseLaneId(laneText);
  if (!lane.ok) return { result: invalidRecord(id, "lane_id", lane.error.message) };
  const attempt = parseAttemptIndex(attemptText);
  if (!attempt.ok) return { result: invalidRecord(id, "current_attempt_index", attempt.error.message) };
  const keys = router.execKeys(id);
  const target = { keys, index: router.indexKeys(keys.partition), lane: lane.value };
  const holder = { workerId: "", instanceId };
  return { command: cancelExecution(target, holder, attempt.value, { reason, source: SOURCE }) };
}

function interpret(result: ValkeyResult): CancelResult {
  if (!result.ok) return failed("ff_cancel_execution failed", result.error);
  const reply = decodeReply(result.value);
  if (!reply.ok) return { kind: "failed", error: reply.error, isPermanent: true };
  const { value } = reply;
  if (value.kind === "done") return { kind: "cancelled", phase: value.fields[1] ?? "" };
  if (value.code === "execution_not_found") return { kind: "not_found" };
  if (value.code === "execution_not_active") return { kind: "already_ended", outcome: value.detail[0] ?? "" };
  const error = new RefusedError("ff_cancel_execution", value.code, value.detail);
  return { kind: "failed", error, isPermanent: true };
}

/** A key of the execution has another type than the contract says. Every other error may heal. */
const WRONG_TYPE = /^WRONGTYPE\b/;

function failed(message: string, cause: Error): CancelFailure {
  return {
    kind: "failed",
    error: new ValkeyError(message, { cause }),
    isPermanent: WRONG_TYPE.test(cause.message),
  };
}

function invalidRecord(id: ExecutionId, field: string, reason: string): CancelFailure {
  const error = new InvalidRecordError(`execution ${id} has no usable ${field}: ${reason}`);
  return { kind: "failed", error, isPermanent: true };
}
