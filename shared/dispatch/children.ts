/** Round trips 2 and 3: which child each edge leads to, and what the child's record says. */

import { command, type Pipelines, type ValkeyResult } from "#shared/contract/command.ts";
import {
  type AttemptIndex,
  type ExecutionId,
  type FlowId,
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
import { eligibilityOf, readMarks } from "#shared/ready/marks.ts";
import type { ReadyPublisher } from "#shared/ready/publisher.ts";
import type { Readiness } from "#shared/ready/readiness.ts";
import { METRICS, type Telemetry, traceFields } from "#shared/runtime/telemetry.ts";
import { noResult } from "#shared/valkey/batches.ts";

export interface ChildReadPorts {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
  readonly telemetry: Telemetry;
  /** If given, what a ready message needs is read too. */
  readonly ready?: ReadyPublisher | undefined;
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
  { valkey, router, telemetry, ready }: ChildReadPorts,
  edges: readonly EdgeToResolve[],
): Promise<ChildRead[]> {
  const targets = await readTargets({ valkey, router, telemetry }, edges);
  const found = targets.filter((target) => "keys" in target);
  const states = await readStates(
    valkey,
    found.map(({ keys }) => keys),
    ready === undefined ? undefined : found.map(({ edge }) => edge.flow.id),
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
    const isNotAnnounced = state.lane === undefined || !ready?.announces(state.lane);
    const readiness = isNotAnnounced ? undefined : state.readiness;
    return {
      edge,
      child: { edge, child: keys, lane, attempt: state.attempt, state: state.state, readiness },
    };
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
      /** How to announce the child. Undefined if it was announced for this eligibility, or if that was not read. */
      readonly readiness: Readiness | undefined;
    }
  | { readonly ok: false; readonly error: ValkeyError | InvalidRecordError };

const FIRST_ATTEMPT = 0 as AttemptIndex;
/** `execution_id` distinguishes a missing record from a record that lacks a field. */
const CHILD_FIELDS = ["lane_id", "current_attempt_index", "terminal_outcome", "completed_at", "execution_id"];

/** What a ready message needs besides. */
const READINESS_FIELDS = ["execution_kind", "replay_count", "total_attempt_count"];

/**
 * Reads the children's records and cascade marks: one result per child, in the children's order. The marks of one
 * partition are one MGET, since they share a slot. With `flows`, the flow of each child, it also reads whether the children
 * were announced to workers.
 */
export async function readStates(
  valkey: Pipelines,
  children: readonly ExecKeys[],
  flows?: readonly FlowId[],
): Promise<ReadState[]> {
  const fields = flows === undefined ? CHILD_FIELDS : [...CHILD_FIELDS, ...READINESS_FIELDS];
  const commands = children.map(({ partition, core }) => command(partition, "hmget", core, ...fields));
  const positions = [...children.keys()];
  const cascades = Map.groupBy(positions, (position) => children[position]?.partition);
  const announced =
    flows === undefined
      ? undefined
      : Map.groupBy(positions, (position) => `${children[position]?.partition} ${flows[position]}`);
  const groups = [...cascades.values()];
  for (const group of groups) {
    const members = group.flatMap((position) => children[position] ?? []);
    const [first] = members;
    if (first) commands.push(command(first.partition, "mget", ...members.map(({ cascade }) => cascade)));
  }
  for (const group of announced?.values() ?? []) {
    const members = group.flatMap((position) => children[position] ?? []);
    const [first] = members;
    const ids = members.map(({ id }) => id);
    if (first) commands.push(readMarks(first.partition, flows?.[group[0] ?? 0], ids));
  }
  const results = await valkey.pipelined(commands);
  const marks = marksOf(groups, results.slice(children.length));
  const announcements =
    announced && marksOf([...announced.values()], results.slice(children.length + groups.length));
  return children.map(({ id }, position) =>
    readStateOf(id, results[position], marks.get(position), announcements?.get(position)),
  );
}

/** Returns the mark of each position; each group of positions has one array of marks. */
function marksOf(
  groups: readonly (readonly number[])[],
  results: readonly (ValkeyResult | undefined)[],
): Map<number, string | Error> {
  return new Map(
    groups.flatMap((group, at) =>
      group.map((position, index): [number, string | Error] => [position, markOf(results[at], index)]),
    ),
  );
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
  announcedFor: string | Error | undefined,
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
  if (announcedFor instanceof Error) {
    return {
      ok: false,
      error: new ValkeyError(`reading the ready mark of child ${id} failed`, { cause: announcedFor }),
    };
  }
  const fields = Array.isArray(record.value) ? record.value.map(fieldText) : [];
  const [
    laneText = "",
    attemptText = "",
    outcome = "",
    completedAt = "",
    ,
    kind = "",
    replays = "",
    attempts = "",
  ] = fields;
  const state: ChildState = { outcome, completedAt, publishedFor: mark };
  if (fields.every((field) => field === "")) {
    return { ok: true, lane: undefined, attempt: FIRST_ATTEMPT, state, readiness: undefined };
  }
  // No default: the call would write the indexes of another lane, or the record of another attempt.
  const lane = parseLaneId(laneText);
  if (!lane.ok) return invalidRecord(id, "lane_id", lane.error.message);
  const attempt = parseAttemptIndex(attemptText);
  if (!attempt.ok) return invalidRecord(id, "current_attempt_index", attempt.error.message);
  const eligibility = eligibilityOf(replays, attempts);
  const isOpen = announcedFor !== undefined && announcedFor !== eligibility;
  const readiness = isOpen ? { lane: lane.value, kind, eligibility } : undefined;
  return { ok: true, lane: lane.value, attempt: attempt.value, state, readiness };
}

function invalidRecord(id: ExecutionId, field: string, reason: string): ReadState {
  return { ok: false, error: new InvalidRecordError(`child ${id} has no usable ${field}: ${reason}`) };
}
