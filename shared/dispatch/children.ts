/** Round trips 2 and 3: which child each edge leads to, and what the child's record says. */

import { command, type Pipelines, type ValkeyResult } from "#shared/contract/command.ts";
import {
  type AttemptIndex,
  type ExecutionId,
  type LaneId,
  parseAttemptIndex,
  parseExecutionId,
  parseLaneId,
} from "#shared/contract/ids.ts";
import type { ExecKeys, IndexKeys } from "#shared/contract/keys.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import { pairResults } from "#shared/contract/results.ts";
import {
  type ChildState,
  type ChildToResolve,
  type EdgeResult,
  type EdgeToResolve,
  failed,
} from "#shared/dispatch/types.ts";
import { InvalidRecordError, ValkeyError } from "#shared/errors.ts";
import { METRICS, type Telemetry, traceFields } from "#shared/runtime/telemetry.ts";
import { noResult } from "#shared/valkey/batches.ts";

export interface ChildReadPorts {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
  readonly telemetry: Telemetry;
}

/** The child of one edge, or why the edge cannot be resolved. */
export type ChildRead =
  | { readonly edge: EdgeToResolve; readonly child: ChildToResolve }
  | { readonly edge: EdgeToResolve; readonly result: EdgeResult };

/**
 * Reads the child of each edge: one result per edge, in the edges' order. An edge whose child id does not parse is
 * logged and counted.
 */
export async function readChildren(
  { valkey, router, telemetry }: ChildReadPorts,
  edges: readonly EdgeToResolve[],
): Promise<ChildRead[]> {
  const targets = await readTargets({ valkey, router, telemetry }, edges);
  const found = targets.filter((target) => "keys" in target);
  const states = await readStates(
    valkey,
    found.map(({ keys }) => keys),
  );
  const stateOf = new Map(found.map((target, position) => [target, states[position]]));
  const indexes = new Map<number, IndexKeys>();
  return targets.map((target): ChildRead => {
    if ("result" in target) return target;
    const { edge, keys } = target;
    const state = stateOf.get(target) ?? notRead(keys);
    if (!state.ok) return { edge, result: failed(state.error) };
    let index = indexes.get(keys.partition);
    if (index === undefined) {
      index = router.indexKeys(keys.partition);
      indexes.set(keys.partition, index);
    }
    const lane = state.lane === undefined ? undefined : index.lane(state.lane);
    return { edge, child: { edge, child: keys, lane, attempt: state.attempt, state: state.state } };
  });
}

type Target =
  | { readonly edge: EdgeToResolve; readonly keys: ExecKeys }
  | { readonly edge: EdgeToResolve; readonly result: EdgeResult };

async function readTargets(
  { valkey, router, telemetry }: ChildReadPorts,
  edges: readonly EdgeToResolve[],
): Promise<Target[]> {
  const results = await valkey.pipelined(
    edges.map(({ flow, edge }) =>
      command(flow.partition, "hget", flow.edge(edge), "downstream_execution_id"),
    ),
  );
  return pairResults(edges, results, noResult).map(({ item: edge, result }): Target => {
    if (!result.ok) {
      const error = new ValkeyError(`reading edge ${edge.edge} failed`, { cause: result.error });
      return { edge, result: failed(error) };
    }
    const child = parseExecutionId(result.value);
    if (child.ok) return { edge, keys: router.execKeys(child.value) };
    reportUnreadable(telemetry, edge, `downstream_execution_id: ${child.error.message}`);
    return { edge, result: { kind: "unreadable" } };
  });
}

/** Logs and counts an edge that is skipped because an id does not parse. */
export function reportUnreadable(
  telemetry: Telemetry,
  { execution, edge }: { readonly execution: EdgeToResolve["execution"]; readonly edge: string },
  reason: string,
): void {
  telemetry.count(METRICS.edgesUnreadable);
  telemetry.warn("edge skipped: an id does not parse", {
    ...traceFields(execution),
    edge_id: edge,
    reason,
  });
}

type ReadState =
  | {
      readonly ok: true;
      /** Undefined when the child has no record. */
      readonly lane: LaneId | undefined;
      readonly attempt: AttemptIndex;
      readonly state: ChildState;
    }
  | { readonly ok: false; readonly error: ValkeyError | InvalidRecordError };

const FIRST_ATTEMPT = 0 as AttemptIndex;
/** `execution_id` distinguishes a missing record from a record that lacks a field. */
const CHILD_FIELDS = ["lane_id", "current_attempt_index", "terminal_outcome", "completed_at", "execution_id"];

/**
 * Reads the children's records and cascade marks: one result per child, in the children's order. The marks of one
 * partition are one MGET, since they share a slot.
 */
export async function readStates(valkey: Pipelines, children: readonly ExecKeys[]): Promise<ReadState[]> {
  const partitions = Map.groupBy(children.keys(), (position) => children[position]?.partition);
  const commands = children.map(({ partition, core }) => command(partition, "hmget", core, ...CHILD_FIELDS));
  const groups = [...partitions.values()];
  for (const positions of groups) {
    const members = positions.flatMap((position) => children[position] ?? []);
    const [first] = members;
    if (first) commands.push(command(first.partition, "mget", ...members.map(({ cascade }) => cascade)));
  }
  const results = await valkey.pipelined(commands);
  const marks = new Array<string | Error>(children.length);
  for (const [group, positions] of groups.entries()) {
    const result = results[children.length + group];
    for (const [index, position] of positions.entries()) marks[position] = markOf(result, index);
  }
  return children.map(({ id }, position) => readStateOf(id, results[position], marks[position]));
}

/** The failure of a child for which `readStates` returned nothing. */
export function notRead({ id }: ExecKeys): Extract<ReadState, { ok: false }> {
  return { ok: false, error: new ValkeyError(`the record of child ${id} was not read`) };
}

function markOf(result: ValkeyResult | undefined, index: number): string | Error {
  if (result === undefined || !result.ok) return result?.error ?? new Error("no result");
  return Array.isArray(result.value) ? fieldText(result.value[index]) : "";
}

function readStateOf(
  id: ExecutionId,
  record: ValkeyResult | undefined,
  mark: string | Error | undefined,
): ReadState {
  if (record === undefined || !record.ok) {
    return { ok: false, error: new ValkeyError(`reading child ${id} failed`, { cause: record?.error }) };
  }
  if (typeof mark !== "string") {
    return {
      ok: false,
      error: new ValkeyError(`reading the cascade mark of child ${id} failed`, { cause: mark }),
    };
  }
  const fields = Array.isArray(record.value) ? record.value.map(fieldText) : [];
  const [laneText = "", attemptText = "", outcome = "", completedAt = ""] = fields;
  const state: ChildState = { outcome, completedAt, publishedFor: mark };
  if (fields.every((field) => field === "")) {
    return { ok: true, lane: undefined, attempt: FIRST_ATTEMPT, state };
  }
  // No default: the call would write the indexes of another lane, or the record of another attempt.
  const lane = parseLaneId(laneText);
  if (!lane.ok) return invalidRecord(id, "lane_id", lane.error.message);
  const attempt = parseAttemptIndex(attemptText);
  if (!attempt.ok) return invalidRecord(id, "current_attempt_index", attempt.error.message);
  return { ok: true, lane: lane.value, attempt: attempt.value, state };
}

function invalidRecord(id: ExecutionId, field: string, reason: string): ReadState {
  return { ok: false, error: new InvalidRecordError(`child ${id} has no usable ${field}: ${reason}`) };
}
