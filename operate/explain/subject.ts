/** The execution that is explained: its record, its flow, and what else two round trips tell. */

import { type ExplainContext, hashOf, hashRead } from "#operate/explain/read.ts";
import { readTaskNames } from "#operate/task-names.ts";
import { flowOf } from "#shared/consistency/flow-of.ts";
import { readAll } from "#shared/consistency/read.ts";
import { command } from "#shared/contract/command.ts";
import { type ExecutionId, type LaneId, parseLaneId } from "#shared/contract/ids.ts";
import type { ExecKeys, FlowKeys } from "#shared/contract/keys.ts";
import { fieldText, parseTime } from "#shared/contract/record.ts";
import { SUBMISSION_FIELDS } from "#shared/contract/submission.ts";
import { readMarks } from "#shared/ready/marks.ts";
import { serverTimeMs } from "#shared/valkey/server-time.ts";

const RECORD_FIELDS = [
  ...["execution_id", "namespace", "lane_id", "execution_kind", "priority", "flow_id", "created_at"],
  ...["lifecycle_phase", "ownership_state", "eligibility_state", "blocking_reason", "blocking_detail"],
  ...["terminal_outcome", "attempt_state", "public_state", "last_transition_at", "last_mutation_at"],
  ...["total_attempt_count", "current_attempt_index", "retry_count", "replay_count", "lease_reclaim_count"],
  ...["started_at", "completed_at", "delay_until", "failure_reason", "cancellation_reason", "cancelled_by"],
  ...["current_worker_id", "current_worker_instance_id", "lease_expires_at", "lease_expired_at"],
  ...["lease_revoke_reason", "pending_retry_reason", "required_capabilities", "last_capability_mismatch_at"],
] as const;
const META_FIELDS = [
  "unsatisfied_required_count",
  "impossible_required_count",
  "last_dependency_update_at",
] as const;
const FLOW_FIELDS = [
  ...["flow_id", "public_flow_state", "created_at", "cancelled_at", "cancel_reason", "cancellation_policy"],
  ...[SUBMISSION_FIELDS.name, SUBMISSION_FIELDS.tasks, SUBMISSION_FIELDS.completedAt],
] as const;
const GROUP_FIELDS = [
  ...["policy_variant", "n", "k", "succeeded", "failed", "skipped", "group_state", "on_satisfied"],
] as const;

type Fields<Names extends readonly string[]> = Readonly<Record<Names[number], string>>;
export type SubjectRecord = Fields<typeof RECORD_FIELDS>;
export type SubjectGroup = Fields<typeof GROUP_FIELDS>;

/** The flow of an execution, and what the flow says of it. */
export interface SubjectFlow {
  readonly keys: FlowKeys;
  readonly core: Fields<typeof FLOW_FIELDS>;
  readonly isPurged: boolean;
  readonly isMember: boolean;
  /** The flow is cancelled, and this member is still to be cancelled. */
  readonly isCancelPending: boolean;
  readonly stagedEdges: number;
  readonly group: SubjectGroup;
  /** The eligibility for which the execution was announced to workers. Empty: not announced. */
  readonly announcedFor: string;
}

export interface Subject {
  readonly keys: ExecKeys;
  readonly record: SubjectRecord;
  /** Undefined if the lane in the record is no lane. */
  readonly lane: LaneId | undefined;
  readonly meta: Fields<typeof META_FIELDS>;
  readonly appliedEdges: number;
  readonly unresolvedEdges: number;
  readonly hasGrant: boolean;
  readonly attemptTimeoutMs: number | undefined;
  readonly deadlineMs: number | undefined;
  readonly flow: SubjectFlow | undefined;
  /** The id of its task in the workflow; empty if its submission did not store it. */
  readonly task: string;
  /** The server's time, in milliseconds since the epoch. */
  readonly nowMs: number;
}

/** Reads an execution. Undefined if it has no record. */
export async function readSubject(context: ExplainContext, id: ExecutionId): Promise<Subject | undefined> {
  const keys = context.router.execKeys(id);
  const { partition } = keys;
  const index = context.router.indexKeys(partition);
  const replies = await readAll(context, [
    hashRead(partition, keys.core, RECORD_FIELDS),
    hashRead(partition, keys.depsMeta, META_FIELDS),
    command(partition, "scard", keys.depsAllEdges),
    command(partition, "scard", keys.depsUnresolved),
    command(partition, "exists", keys.claimGrant),
    command(partition, "zscore", index.attemptTimeout, id),
    command(partition, "zscore", index.executionDeadline, id),
    command(partition, "time"),
  ]);
  const [core, meta, applied, unresolved, grant, timeout, deadline, time] = replies;
  const record = hashOf(RECORD_FIELDS, core);
  if (Object.values(record).every((value) => value === "")) return undefined;
  const lane = parseLaneId(record.lane_id);
  const [task = ""] = await readTaskNames(context, [id]);
  return {
    keys,
    record,
    lane: lane.ok ? lane.value : undefined,
    meta: hashOf(META_FIELDS, meta),
    appliedEdges: Number(applied),
    unresolvedEdges: Number(unresolved),
    hasGrant: grant === 1,
    attemptTimeoutMs: parseTime(fieldText(timeout)),
    deadlineMs: parseTime(fieldText(deadline)),
    flow: await readFlow(context, keys, record.flow_id),
    task,
    nowMs: serverTimeMs(time),
  };
}

async function readFlow(
  context: ExplainContext,
  keys: ExecKeys,
  flowId: string,
): Promise<SubjectFlow | undefined> {
  const flow = flowOf(keys, flowId);
  if (flow === undefined) return undefined;
  const { partition } = keys;
  const [core, purged, member, pending, staged, group, marks] = await readAll(context, [
    hashRead(partition, flow.core, FLOW_FIELDS),
    command(partition, "exists", flow.purged),
    command(partition, "sismember", flow.members, keys.id),
    command(partition, "sismember", flow.pendingCancels, keys.id),
    command(partition, "scard", flow.incoming(keys.id)),
    hashRead(partition, flow.edgeGroup(keys.id), GROUP_FIELDS),
    readMarks(partition, flow.id, [keys.id]),
  ]);
  return {
    keys: flow,
    core: hashOf(FLOW_FIELDS, core),
    isPurged: purged === 1,
    isMember: member === 1,
    isCancelPending: pending === 1,
    stagedEdges: Number(staged),
    group: hashOf(GROUP_FIELDS, group),
    announcedFor: Array.isArray(marks) ? fieldText(marks[0]) : "",
  };
}

/**
 * What changes with every change of the execution or its dependencies. Findings count only if it is the same before and after
 * they were read.
 */
export function stampOf(subject: Subject | undefined): string {
  if (subject === undefined) return "";
  const { record, meta, appliedEdges, unresolvedEdges, flow } = subject;
  return [
    record.lifecycle_phase,
    record.ownership_state,
    record.eligibility_state,
    record.last_mutation_at,
    meta.last_dependency_update_at,
    appliedEdges,
    unresolvedEdges,
    flow?.stagedEdges ?? 0,
    flow?.core.public_flow_state ?? "",
    flow?.group.group_state ?? "",
  ].join(" ");
}

/** Whether the execution waits for its dependencies, according to its record. */
export function isBlocked({ record }: Subject): boolean {
  return record.lifecycle_phase === "runnable" && record.eligibility_state === "blocked_by_dependencies";
}

/** Whether the group of an execution counts its edges, instead of all being required. */
export function hasQuorum(group: SubjectGroup): boolean {
  return group.policy_variant === "any_of" || group.policy_variant === "quorum";
}
