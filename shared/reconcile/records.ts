/** Reads the records of the executions that an index lists. */

import { command } from "#shared/contract/command.ts";
import {
  type AttemptIndex,
  type FlowId,
  type LaneId,
  parseAttemptIndex,
  parseExecutionId,
  parseFlowId,
  parseLaneId,
  partitionOf,
  unwrap,
} from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import type { Target } from "#shared/contract/ownership.ts";
import { fieldText } from "#shared/contract/record.ts";
import { isRecordError } from "#shared/errors.ts";
import type { IndexEntry } from "#shared/reconcile/indexes.ts";
import { pipelineEach } from "#shared/reconcile/outcome.ts";
import type { TaskRun } from "#shared/reconcile/run.ts";

/** An execution that an index lists, and what its record says. */
export interface ListedExecution {
  readonly entry: IndexEntry;
  readonly target: Target;
  /** Undefined if it belongs to no flow. */
  readonly flowId: FlowId | undefined;
  /** 0 if it was never claimed. */
  readonly attempt: AttemptIndex;
  readonly ownership: string;
  readonly reclaims: number;
}

export type RecordRead =
  | { readonly kind: "read"; readonly execution: ListedExecution }
  /** The entry or the record is invalid. It was reported, and there is nothing to retry. */
  | { readonly kind: "invalid" }
  | { readonly kind: "failed"; readonly error: Error };

const INVALID: RecordRead = { kind: "invalid" };
const FIELDS = ["lane_id", "flow_id", "current_attempt_index", "ownership_state", "lease_reclaim_count"];
/** Stands for the lane of an execution without a record. Functions that are called for it only clean its indexes. */
const ANY_LANE: LaneId = unwrap(parseLaneId("default"));

/** Reads the records of all entries in one round trip. Returns one read per entry, in their order. */
export async function readRecords(run: TaskRun, entries: readonly IndexEntry[]): Promise<RecordRead[]> {
  const listed = entries.map((entry) => ({ entry, keys: executionOf(run, entry) }));
  const valid = listed.flatMap(({ entry, keys }) => (keys === undefined ? [] : [{ entry, keys }]));
  const results = await pipelineEach(run.ports.valkey, valid, ({ keys }) =>
    command(keys.partition, "hmget", keys.core, ...FIELDS),
  );
  const reads = new Map(
    results.map(({ item: { entry, keys }, result }): [IndexEntry, RecordRead] => {
      if (result.ok) return [entry, recordOf(run, entry, keys, result.value)];
      if (!isRecordError(result.error)) return [entry, { kind: "failed", error: result.error }];
      return [entry, invalid(run, keys, result.error.message)];
    }),
  );
  return entries.map((entry) => reads.get(entry) ?? INVALID);
}

/** The keys of the execution of an entry. Undefined, and reported, if it is no execution of the index's partition. */
export function executionOf(run: TaskRun, { index, member }: IndexEntry): ExecKeys | undefined {
  const id = parseExecutionId(member);
  if (id.ok && partitionOf(id.value) === index.partition) return run.ports.router.execKeys(id.value);
  run.reportUnreadable("index entry skipped: not an execution of its partition", {
    index: index.family.name,
    ...(index.lane === undefined ? {} : { lane: index.lane }),
    partition: index.partition,
    reason: id.ok ? `${id.value} belongs to another partition` : id.error.message,
  });
  return undefined;
}

function recordOf(run: TaskRun, entry: IndexEntry, keys: ExecKeys, value: unknown): RecordRead {
  const fields = Array.isArray(value) ? value.map(fieldText) : [];
  const [laneText = "", flowText = "", attemptText = "", ownership = "", reclaims = ""] = fields;
  const isMissing = fields.every((field) => field === "");
  const lane = isMissing ? { ok: true as const, value: ANY_LANE } : parseLaneId(laneText);
  const attempt = parseAttemptIndex(attemptText);
  const flow = flowText === "" ? undefined : parseFlowId(flowText);
  if (!lane.ok) return invalid(run, keys, lane.error.message);
  if (!attempt.ok) return invalid(run, keys, attempt.error.message);
  if (flow?.ok === false) return invalid(run, keys, flow.error.message);
  const index = run.ports.router.indexKeys(keys.partition);
  return {
    kind: "read",
    execution: {
      entry,
      target: { keys, index, lane: lane.value },
      flowId: flow?.value,
      attempt: attempt.value,
      ownership,
      reclaims: Number(reclaims),
    },
  };
}

function invalid(run: TaskRun, keys: ExecKeys, reason: string): RecordRead {
  run.reportUnreadable("execution skipped: its record cannot be read", { execution_id: keys.id, reason });
  return INVALID;
}
