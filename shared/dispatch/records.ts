/** Round trip 1: how each completed execution ended, and which edges leave it. */

import { command, type Pipelines, type ValkeyCommand, type ValkeyResult } from "#shared/contract/command.ts";
import { type FlowId, type Partition, parseStoredFlowId } from "#shared/contract/ids.ts";
import type { FlowKeys } from "#shared/contract/keys.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText, isTerminalOutcome } from "#shared/contract/record.ts";
import type { UpstreamEnd } from "#shared/contract/resolve.ts";
import { pairResults } from "#shared/contract/results.ts";
import { type CompletedExecution, failed } from "#shared/dispatch/types.ts";
import {
  FlowMismatchError,
  InvalidRecordError,
  ProtocolError,
  type SluiceError,
  ValkeyError,
} from "#shared/errors.ts";
import { noResult } from "#shared/valkey/batches.ts";

/** The state of a completed execution, according to its record. */
export type RecordState =
  | { readonly kind: "ended"; readonly end: UpstreamEnd; readonly edges: readonly EdgeSet[] }
  /** Not terminal, or without an outcome: it has not ended yet, or was replayed. Nothing may be resolved. */
  | { readonly kind: "not_ended"; readonly phase: string; readonly outcome: string }
  /** The flow is deleted after its retention, or is being deleted: none of its executions can run any more. */
  | { readonly kind: "flow_purged" }
  | { readonly kind: "failed"; readonly error: SluiceError };

/** Outgoing edge ids, unparsed, and the keys of the flow under the tag and spelling where they were found. */
export interface EdgeSet {
  readonly flow: FlowKeys;
  readonly ids: readonly string[];
}

export interface RecordPorts {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
}

const RECORD_FIELDS = ["lifecycle_phase", "terminal_outcome", "completed_at", "flow_id"];

/**
 * Reads records and outgoing edges: one state per execution, in the executions' order.
 *
 * Takes one round trip, and a second one if a record spells its flow id differently from the message: the edges may be
 * stored under that spelling.
 */
export async function readRecords(
  ports: RecordPorts,
  executions: readonly CompletedExecution[],
): Promise<RecordState[]> {
  const first = await readOnce(ports, executions);
  const respelled = first.flatMap(({ read, execution }) =>
    read.kind === "ended" && read.storedFlowId !== undefined
      ? [{ execution, flowId: read.storedFlowId }]
      : [],
  );
  const more = await readEdges(ports, respelled);
  return first.map(({ execution, read }): RecordState => {
    if (read.kind !== "ended") return read;
    const { end, edges } = read;
    if (read.storedFlowId === undefined) return { kind: "ended", end, edges };
    const found = more.get(execution) ?? new ValkeyError("the outgoing edges were not read");
    return found instanceof Error ? failed(found) : { kind: "ended", end, edges: [...edges, ...found] };
  });
}

/** The state in a record, and the record's flow id if the message spells it differently. */
type RecordRead =
  | {
      readonly kind: "ended";
      readonly end: UpstreamEnd;
      readonly edges: readonly EdgeSet[];
      readonly storedFlowId: FlowId | undefined;
    }
  | Exclude<RecordState, { kind: "ended" }>;

async function readOnce(
  { valkey, router }: RecordPorts,
  executions: readonly CompletedExecution[],
): Promise<{ readonly execution: CompletedExecution; readonly read: RecordRead }[]> {
  const commands: ValkeyCommand[] = [];
  const marks = new Map<string, ValkeyCommand>();
  const flowsOf = executions.map(({ executionId, flowId }) => {
    const flows = flowsWithEdges(router, { executionId, flowId });
    const { partition, core } = router.execKeys(executionId);
    commands.push(command(partition, "hmget", core, ...RECORD_FIELDS));
    for (const flow of flows) {
      commands.push(command(flow.partition, "smembers", flow.outgoing(executionId)));
      if (!marks.has(flow.purged)) marks.set(flow.purged, command(flow.partition, "exists", flow.purged));
    }
    return flows;
  });
  const results = await valkey.pipelined([...commands, ...marks.values()]);
  const replies = results.values();
  // Marks are read once for each flow of the batch, after everything else.
  const isPurged = new Set(
    [...marks.keys()].filter((_, position) => {
      const result = results[commands.length + position];
      return result?.ok === true && result.value === 1;
    }),
  );
  return pairResults(executions, flowsOf, () => []).map(({ item: execution, result: flows }) => {
    const record = nextOf(replies);
    const edges = flows.map((flow) => ({ flow, reply: nextOf(replies) }));
    if (flows.some((flow) => isPurged.has(flow.purged))) return { execution, read: { kind: "flow_purged" } };
    return { execution, read: interpret(execution, record, edges) };
  });
}

/** Reads the outgoing edges under another spelling of the flow id: the edges, or why they could not be read. */
async function readEdges(
  { valkey, router }: RecordPorts,
  respelled: readonly { readonly execution: CompletedExecution; readonly flowId: FlowId }[],
): Promise<Map<CompletedExecution, readonly EdgeSet[] | SluiceError>> {
  const wanted = respelled.flatMap(({ execution, flowId }) =>
    flowsWithEdges(router, { executionId: execution.executionId, flowId }).map((flow) => ({
      execution,
      flow,
    })),
  );
  const replies = await valkey.pipelined(
    wanted.map(({ execution, flow }) =>
      command(flow.partition, "smembers", flow.outgoing(execution.executionId)),
    ),
  );
  const found = new Map<CompletedExecution, readonly EdgeSet[] | SluiceError>();
  for (const { item, result } of pairResults(wanted, replies, noResult)) {
    const known = found.get(item.execution) ?? [];
    const set = edgeSetOf(item.flow, result);
    if (known instanceof Error) continue;
    found.set(item.execution, set instanceof Error ? set : [...known, set]);
  }
  return found;
}

/**
 * The keys of a flow under each tag where its edges may be. Members are created in their flow's partition, so the
 * execution's tag names it, even for an id from a deployment with another partition count. A solo execution that joined a
 * flow later keeps the tag of its lane; then the flow id names the partition.
 */
function flowsWithEdges(
  router: PartitionRouter,
  { executionId, flowId }: Pick<CompletedExecution, "executionId" | "flowId">,
): FlowKeys[] {
  const partitions = new Set<Partition>([router.partitionFor(executionId), router.flowPartition(flowId)]);
  return [...partitions].map((partition) => router.flowKeys(flowId, partition));
}

function interpret(
  { executionId, flowId }: CompletedExecution,
  record: ValkeyResult,
  edges: readonly { readonly flow: FlowKeys; readonly reply: ValkeyResult }[],
): RecordRead {
  if (!record.ok) return failed(new ValkeyError("reading the record failed", { cause: record.error }));
  const [phase = "", outcome = "", completedAt = "", storedFlow = ""] = Array.isArray(record.value)
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
  // Under the wrong flow id, the set of edges is empty, and no child would be updated. An empty flow id is accepted: the
  // execution may have joined the flow after this read.
  if (storedFlow !== "" && storedFlow.toLowerCase() !== flowId) {
    return failed(
      new FlowMismatchError(
        `the message names flow ${flowId}, but the record of ${executionId} belongs to flow ${storedFlow}`,
      ),
    );
  }
  const sets: EdgeSet[] = [];
  for (const { flow, reply } of edges) {
    const set = edgeSetOf(flow, reply);
    if (set instanceof Error) return failed(set);
    sets.push(set);
  }
  const stored = storedFlow === flowId ? undefined : parseStoredFlowId(storedFlow);
  return {
    kind: "ended",
    end: { outcome, completedAt },
    edges: sets,
    storedFlowId: stored?.ok ? stored.value : undefined,
  };
}

function edgeSetOf(flow: FlowKeys, reply: ValkeyResult): EdgeSet | SluiceError {
  if (!reply.ok) return new ValkeyError("reading the outgoing edges failed", { cause: reply.error });
  if (!Array.isArray(reply.value)) return new ProtocolError("SMEMBERS did not reply with an array");
  return { flow, ids: reply.value.map(fieldText) };
}

function nextOf(replies: ArrayIterator<ValkeyResult>): ValkeyResult {
  const next = replies.next();
  return next.done ? noResult() : next.value;
}
