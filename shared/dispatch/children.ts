/** Round trips 2 and 3: which child each edge leads to, and how the child stands. */

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
import type { ChildState, ChildWork, EdgeWork } from "#shared/dispatch/work.ts";
import { InvalidRecordError, ValkeyError } from "#shared/errors.ts";
import { METRICS, type Telemetry, traceFields } from "#shared/runtime/telemetry.ts";

/** What reading children needs. */
export interface ReadPorts {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
  readonly telemetry: Telemetry;
}

/**
 * Finds the child of each edge. An edge without a readable child id is left alone, logged and counted; an
 * edge that could not be read is a fault of its work. Neither holds up the other edges.
 */
export async function readChildren(
  { valkey, router, telemetry }: ReadPorts,
  edges: readonly EdgeWork[],
): Promise<ChildWork[]> {
  const targets = await readTargets({ valkey, router, telemetry }, edges);
  const states = await readStates(
    valkey,
    targets.map(({ child }) => child),
  );
  const indexes = new Map<number, IndexKeys>();
  const children: ChildWork[] = [];
  for (const [position, target] of targets.entries()) {
    const state = states[position];
    if (state === undefined) continue;
    if (!state.ok) {
      target.edge.work.errors.push(state.error);
      continue;
    }
    const { partition } = target.child;
    let index = indexes.get(partition);
    if (index === undefined) {
      index = router.indexKeys(partition);
      indexes.set(partition, index);
    }
    children.push({
      ...target.edge,
      child: target.child,
      lane: state.lane === undefined ? undefined : index.lane(state.lane),
      attempt: state.attempt,
      state: state.state,
    });
  }
  return children;
}

interface Target {
  readonly edge: EdgeWork;
  readonly child: ExecKeys;
}

async function readTargets(
  { valkey, router, telemetry }: ReadPorts,
  edges: readonly EdgeWork[],
): Promise<Target[]> {
  const results = await valkey.pipelined(
    edges.map(({ flow, edge }) =>
      command(flow.partition, "hget", flow.edge(edge), "downstream_execution_id"),
    ),
  );
  const targets: Target[] = [];
  for (const [position, edge] of edges.entries()) {
    const result = results[position];
    if (result === undefined || !result.ok) {
      edge.work.errors.push(new ValkeyError(`reading edge ${edge.edge} failed`, { cause: result?.error }));
      continue;
    }
    const child = parseExecutionId(result.value);
    if (child.ok) targets.push({ edge, child: router.execKeys(child.value) });
    else reportUnreadable(telemetry, edge, `its downstream_execution_id: ${child.error.message}`);
  }
  return targets;
}

/** Tells the operator of an edge that is left alone. */
export function reportUnreadable(
  telemetry: Telemetry,
  { work, edge }: { readonly work: EdgeWork["work"]; readonly edge: string },
  reason: string,
): void {
  telemetry.count(METRICS.edgesUnreadable);
  telemetry.warn("an edge is left alone: an id does not parse", {
    ...traceFields(work),
    edge_id: edge,
    reason,
  });
}

type ReadState =
  | {
      readonly ok: true;
      readonly lane: LaneId | undefined;
      readonly attempt: AttemptIndex;
      readonly state: ChildState;
    }
  | { readonly ok: false; readonly error: ValkeyError | InvalidRecordError };

const FIRST_ATTEMPT = 0 as AttemptIndex;
/** `execution_id` tells a record that is gone from one that lacks a field. */
const CHILD_FIELDS = ["lane_id", "current_attempt_index", "terminal_outcome", "completed_at", "execution_id"];

/**
 * Reads the children's records, and the mark that says which skip has been published. The marks of one
 * partition are one MGET: they share a slot.
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
  const state: ChildState = { outcome, completedAt, cascaded: mark };
  if (fields.every((field) => field === "")) {
    return { ok: true, lane: undefined, attempt: FIRST_ATTEMPT, state };
  }
  // A guess would write the indexes of a lane, or the record of an attempt, that is not the child's.
  const lane = parseLaneId(laneText);
  if (!lane.ok) return invalidRecord(id, "lane_id", lane.error.message);
  const attempt = parseAttemptIndex(attemptText);
  if (!attempt.ok) return invalidRecord(id, "current_attempt_index", attempt.error.message);
  return { ok: true, lane: lane.value, attempt: attempt.value, state };
}

function invalidRecord(id: ExecutionId, field: string, reason: string): ReadState {
  return { ok: false, error: new InvalidRecordError(`child ${id} has no usable ${field}: ${reason}`) };
}
