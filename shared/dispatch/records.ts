/** Round trip 1: how each completed execution ended, and which edges leave it. */

import { command, type Pipelines, type ValkeyCommand, type ValkeyResult } from "#shared/contract/command.ts";
import type { Partition } from "#shared/contract/ids.ts";
import type { FlowKeys } from "#shared/contract/keys.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText, isTerminalOutcome, type TerminalOutcome } from "#shared/contract/record.ts";
import type { Work } from "#shared/dispatch/work.ts";
import { InvalidRecordError, type SluiceError, ValkeyError } from "#shared/errors.ts";

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
  | { readonly kind: "fault"; readonly error: SluiceError };

/** Outgoing edge ids, unparsed, and the flow's keys under the tag where they were found. */
export interface EdgeSet {
  readonly flow: FlowKeys;
  readonly ids: readonly string[];
}

/** Reads the records and outgoing edges of all works at once; states are in the works' order. */
export async function readRecords(
  valkey: Pipelines,
  router: PartitionRouter,
  works: readonly Work[],
): Promise<RecordState[]> {
  const commands: ValkeyCommand[] = [];
  const flowsOf = works.map(({ executionId, flowId }) => {
    const flows = flowPartitions(router, { executionId, flowId }).map((partition) =>
      router.flowKeys(flowId, partition),
    );
    const { partition, core } = router.execKeys(executionId);
    commands.push(command(partition, "hmget", core, "lifecycle_phase", "terminal_outcome", "completed_at"));
    for (const flow of flows) commands.push(command(flow.partition, "smembers", flow.outgoing(executionId)));
    return flows;
  });
  const results = (await valkey.pipelined(commands)).values();
  return flowsOf.map((flows) => {
    const record = nextOf(results);
    const edges = flows.map((flow) => ({ flow, result: nextOf(results) }));
    return stateOf(record, edges);
  });
}

/**
 * Members of a flow are minted in its partition, so the execution's own tag says where the flow is, even for
 * an id from a deployment with another partition count. A solo execution that joined a flow later keeps the
 * tag of its lane: then the flow is where its own id puts it. Both are read where they differ.
 */
function flowPartitions(
  router: PartitionRouter,
  { executionId, flowId }: Pick<Work, "executionId" | "flowId">,
): Partition[] {
  return [...new Set([router.partitionFor(executionId), router.flowPartition(flowId)])];
}

function stateOf(
  record: ValkeyResult,
  edges: readonly { readonly flow: FlowKeys; readonly result: ValkeyResult }[],
): RecordState {
  if (!record.ok) return fault(new ValkeyError("reading the record failed", { cause: record.error }));
  const [phase = "", outcome = "", completedAt = ""] = Array.isArray(record.value)
    ? record.value.map(fieldText)
    : [];
  if (phase === "" && outcome === "") {
    return fault(new InvalidRecordError("the execution has no record: not written yet, or trimmed"));
  }
  if (phase !== "terminal" || outcome === "" || outcome === "none")
    return { kind: "not_ended", phase, outcome };
  if (!isTerminalOutcome(outcome)) {
    return fault(
      new InvalidRecordError(`the record's terminal_outcome "${outcome}" is none that the contract knows`),
    );
  }
  const sets: EdgeSet[] = [];
  for (const { flow, result } of edges) {
    if (!result.ok)
      return fault(new ValkeyError("reading the outgoing edges failed", { cause: result.error }));
    if (Array.isArray(result.value)) sets.push({ flow, ids: result.value.map(fieldText) });
  }
  return { kind: "ended", outcome, completedAt, edges: sets };
}

function fault(error: SluiceError): RecordState {
  return { kind: "fault", error };
}

function nextOf(results: ArrayIterator<ValkeyResult>): ValkeyResult {
  const next = results.next();
  return next.done ? { ok: false, error: new Error("the pipeline gave no result") } : next.value;
}
