/** Reads the records of executions, for operations on them. */

import { command, type Pipelines } from "#shared/contract/command.ts";
import {
  type AttemptIndex,
  type ExecutionId,
  type FlowId,
  type LaneId,
  parseAttemptIndex,
  parseLaneId,
  parseStoredFlowId,
} from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import type { Target } from "#shared/contract/ownership.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText, parseTime } from "#shared/contract/record.ts";
import { isRecordError } from "#shared/errors.ts";
import { chunked, valueOrThrow } from "#shared/valkey/batches.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";

const FIELDS = [
  "lifecycle_phase",
  "ownership_state",
  "eligibility_state",
  "terminal_outcome",
  "attempt_state",
  "public_state",
  "last_transition_at",
  "lane_id",
  "flow_id",
  "execution_kind",
  "priority",
  "delay_until",
  "failure_reason",
  "cancellation_reason",
  "skip_root",
  "skip_reason",
  "current_attempt_index",
  "current_lease_id",
  "current_worker_id",
  "current_worker_instance_id",
  "lease_expires_at",
  "replay_count",
  "required_capabilities",
] as const;

type Fields = { readonly [Name in (typeof FIELDS)[number]]: string };

/** An execution's record, as it was read. Texts are empty where the record has no value. */
export interface ExecutionRecord {
  readonly keys: ExecKeys;
  readonly fields: Fields;
  /** Undefined: in no flow, or the record's flow id is malformed. */
  readonly flowId: FlowId | undefined;
  /** Undefined: the record's lane is malformed. */
  readonly lane: LaneId | undefined;
  readonly attempt: AttemptIndex | undefined;
  /** When it entered its state, in milliseconds since the epoch. */
  readonly changedAtMs: number | undefined;
  /** When the record was read, by the server's clock. */
  readonly readAtMs: number;
}

/** Reads the records of executions, in their order; undefined for one without a record. Throws a ValkeyError. */
export async function readExecutions(
  { valkey, router }: { readonly valkey: Pipelines; readonly router: PartitionRouter },
  ids: readonly ExecutionId[],
): Promise<(ExecutionRecord | undefined)[]> {
  const records: (ExecutionRecord | undefined)[] = [];
  for (const chunk of chunked(ids)) {
    const partitions = [...new Set(chunk.map((id) => router.partitionFor(id)))];
    const replies = await valkey.pipelined([
      ...partitions.map((partition) => command(partition, "time")),
      ...chunk.map((id) => {
        const { partition, core } = router.execKeys(id);
        return command(partition, "hmget", core, ...FIELDS);
      }),
    ]);
    const times = new Map(
      partitions.map((partition, at) => [partition, serverTimeMs(valueOrThrow(replies[at]))]),
    );
    for (const [at, id] of chunk.entries()) {
      const reply = replies[partitions.length + at];
      const readAtMs = times.get(router.partitionFor(id)) ?? Number.NaN;
      // A key of another type is no record.
      const isReadable = reply === undefined || reply.ok || !isRecordError(reply.error);
      records.push(isReadable ? recordOf(router.execKeys(id), valueOrThrow(reply), readAtMs) : undefined);
    }
  }
  return records;
}

function recordOf(keys: ExecKeys, value: unknown, readAtMs: number): ExecutionRecord | undefined {
  const texts = Array.isArray(value) ? value.map(fieldText) : [];
  const fields = Object.fromEntries(FIELDS.map((name, at) => [name, texts[at] ?? ""])) as Fields;
  if (fields.lifecycle_phase === "") return undefined;
  const flowId = parseStoredFlowId(fields.flow_id);
  const lane = parseLaneId(fields.lane_id);
  const attempt = parseAttemptIndex(fields.current_attempt_index);
  return {
    keys,
    fields,
    flowId: flowId.ok ? flowId.value : undefined,
    lane: lane.ok ? lane.value : undefined,
    attempt: attempt.ok ? attempt.value : undefined,
    changedAtMs: parseTime(fields.last_transition_at),
    readAtMs,
  };
}

/** Why it failed, was cancelled or was skipped. Empty if the record does not say. */
export function reasonOf({ fields }: ExecutionRecord): string {
  if (fields.terminal_outcome === "cancelled") return fields.cancellation_reason;
  return fields.terminal_outcome === "skipped" ? fields.skip_reason : fields.failure_reason;
}

/** The execution with the indexes of its partition and its lane. Undefined if the record's lane is malformed. */
export function targetOf(router: PartitionRouter, { keys, lane }: ExecutionRecord): Target | undefined {
  return lane === undefined ? undefined : { keys, index: router.indexKeys(keys.partition), lane };
}
