/** Round trip 1: how each completed execution ended, and which edges leave it. */

import { command, type Pipelines, type ValkeyCommand, type ValkeyResult } from "#shared/contract/command.ts";
import type { Partition } from "#shared/contract/ids.ts";
import type { FlowKeys } from "#shared/contract/keys.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText, isTerminalOutcome, type TerminalOutcome } from "#shared/contract/record.ts";
import { type CompletedExecution, failed } from "#shared/dispatch/types.ts";
import { InvalidRecordError, ProtocolError, type SluiceError, ValkeyError } from "#shared/errors.ts";
import { noResult } from "#shared/valkey/batches.ts";

/** What the record of a completed execution says. */
export type RecordState =
  | {
      readonly kind: "ended";
      readonly outcome: TerminalOutcome;
      readonly completedAt: string;
      readonly edges: readonly EdgeSet[];
    }
  /** Not terminal, or without an outcome: not finished yet, or replayed since. Nothing may be resolved. */
  | { readonly kind: "not_ended"; readonly phase: string; readonly outcome: string }
  | { readonly kind: "failed"; readonly error: SluiceError };

/** Outgoing edge ids, unparsed, and the keys of the flow under the tag where they were found. */
export interface EdgeSet {
  readonly flow: FlowKeys;
  readonly ids: readonly string[];
}

/** Reads records and outgoing edges in one round trip: one state per execution, in the executions' order. */
export async function readRecords(
  valkey: Pipelines,
  router: PartitionRouter,
  executions: readonly CompletedExecution[],
): Promise<RecordState[]> {
  const commands: ValkeyCommand[] = [];
  const flowsOf = executions.map(({ executionId, flowId }) => {
    const flows = flowPartitions(router, { executionId, flowId }).map((partition) =>
      router.flowKeys(flowId, partition),
    );
    const { partition, core } = router.execKeys(executionId);
    commands.push(command(partition, "hmget", core, "lifecycle_phase", "terminal_outcome", "completed_at"));
    for (const flow of flows) commands.push(command(flow.partition, "smembers", flow.outgoing(executionId)));
    return flows;
  });
  const replies = (await valkey.pipelined(commands)).values();
  return flowsOf.map((flows) => {
    const record = nextOf(replies);
    const edges = flows.map((flow) => ({ flow, result: nextOf(replies) }));
    return stateOf(record, edges);
  });
}

/**
 * Members are created in their flow's partition, so the execution's tag names it, even for an id from a deployment with
 * another partition count. A solo execution that joined a flow later keeps the tag of its lane; then the flow id names
 * the partition. Both are read when they differ.
 */
function flowPartitions(
  router: PartitionRouter,
  { executionId, flowId }: Pick<CompletedExecution, "executionId" | "flowId">,
): Partition[] {
  return [...new Set([router.partitionFor(executionId), router.flowPartition(flowId)])];
}

function stateOf(
  record: ValkeyResult,
  edges: readonly { readonly flow: FlowKeys; readonly result: ValkeyResult }[],
): RecordState {
  if (!record.ok) return failed(new ValkeyError("reading the record failed", { cause: record.error }));
  const [phase = "", outcome = "", completedAt = ""] = Array.isArray(record.value)
    ? record.value.map(fieldText)
    : [];
  if (phase === "" && outcome === "") {
    return failed(
      new InvalidRecordError("the execution has no record: it is not written yet, or was trimmed"),
    );
  }
  if (phase !== "terminal" || outcome === "" || outcome === "none")
    return { kind: "not_ended", phase, outcome };
  if (!isTerminalOutcome(outcome)) {
    return failed(
      new InvalidRecordError(
        `the record's terminal_outcome "${outcome}" is not one that the contract defines`,
      ),
    );
  }
  const sets: EdgeSet[] = [];
  for (const { flow, result } of edges) {
    if (!result.ok)
      return failed(new ValkeyError("reading the outgoing edges failed", { cause: result.error }));
    if (!Array.isArray(result.value)) return failed(new ProtocolError("SMEMBERS replied no array"));
    sets.push({ flow, ids: result.value.map(fieldText) });
  }
  return { kind: "ended", outcome, completedAt, edges: sets };
}

function nextOf(replies: ArrayIterator<ValkeyResult>): ValkeyResult {
  const next = replies.next();
  return next.done ? noResult() : next.value;
}
