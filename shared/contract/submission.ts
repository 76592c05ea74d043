/** Calls of the functions that create executions and flows, and add members and edges (contract, section 6). */

import { fcall, type ValkeyArgument, type ValkeyCommand } from "#shared/contract/command.ts";
import type { EdgeId, ExecutionId, LaneId } from "#shared/contract/ids.ts";
import type { ExecKeys, FlowKeys, IndexKeys } from "#shared/contract/keys.ts";
import { noopKey } from "#shared/contract/keys.ts";

/** Sluice's own fields of a flow's record, written by its submission (section 4), in the order in which they are written. */
export const SUBMISSION_FIELDS = {
  name: "workflow_name",
  tasks: "submission_tasks",
  completedAt: "submission_completed_at",
} as const;

/** The tag of an execution with the id of its task in the workflow, written by Sluice's submission. */
export const TASK_TAG = "sluice.task";

export interface NewExecution {
  readonly keys: ExecKeys;
  readonly index: IndexKeys;
  readonly namespace: string;
  readonly lane: LaneId;
  readonly kind: string;
  /** 0 to 9000. Executions with a higher priority are claimed first. */
  readonly priority: number;
  readonly creator: string;
  /** A JSON object, or empty for no policy. */
  readonly policyJson: string;
  readonly payload: ValkeyArgument;
  /** Milliseconds since the epoch. Undefined: eligible at once. */
  readonly delayUntil?: number;
  /** A key from `idempotencyKey`, and how long Valkey keeps it. */
  readonly idempotency?: { readonly key: string; readonly ttlMs: number };
  /** A JSON object of strings, or empty for no tags. */
  readonly tagsJson?: string;
  /** Milliseconds since the epoch. */
  readonly deadlineAt?: number;
}

/** `ff_create_execution`: replies `OK, execution_id, public_state` or `DUPLICATE, id`. */
export function createExecution(execution: NewExecution): ValkeyCommand {
  const { keys, index, lane } = execution;
  const laneKeys = index.lane(lane);
  return fcall(
    keys.partition,
    "ff_create_execution",
    [
      keys.core,
      keys.payload,
      keys.policy,
      keys.tags,
      execution.delayUntil === undefined ? laneKeys.eligible : laneKeys.delayed,
      execution.idempotency?.key ?? noopKey(keys.partition),
      index.executionDeadline,
      index.allExecutions,
    ],
    [
      keys.id,
      execution.namespace,
      lane,
      execution.kind,
      execution.priority,
      execution.creator,
      execution.policyJson,
      execution.payload,
      execution.delayUntil ?? "",
      execution.idempotency?.ttlMs ?? "",
      execution.tagsJson ?? "",
      execution.deadlineAt ?? "",
      keys.partition,
    ],
  );
}

/** `ff_create_flow`: replies `OK, flow_id` or `ALREADY_SATISFIED, flow_id`. */
export function createFlow(
  flow: FlowKeys,
  index: IndexKeys,
  kind: string,
  namespace: string,
  nowMs: number,
): ValkeyCommand {
  return fcall(
    flow.partition,
    "ff_create_flow",
    [flow.core, flow.members, index.flowIndex],
    [flow.id, kind, namespace, nowMs],
  );
}

/** `ff_add_execution_to_flow`: replies `OK | ALREADY_SATISFIED, execution_id, node_count`. */
export function addExecutionToFlow(
  flow: FlowKeys,
  index: IndexKeys,
  execution: ExecKeys,
  nowMs: number,
): ValkeyCommand {
  return fcall(
    flow.partition,
    "ff_add_execution_to_flow",
    [flow.core, flow.members, index.flowIndex, execution.core],
    [flow.id, execution.id, nowMs],
  );
}

export interface Edge {
  readonly id: EdgeId;
  readonly upstream: ExecutionId;
  readonly downstream: ExecutionId;
  /** If not empty, the upstream's result becomes the downstream's payload. */
  readonly dataPassingRef: string;
}

const DEPENDENCY_KIND = "success_only";

/** `ff_stage_dependency_edge`: replies `OK, edge_id, new_graph_revision`. */
export function stageDependencyEdge(
  flow: FlowKeys,
  edge: Edge,
  expectedGraphRevision: number,
  nowMs: number,
): ValkeyCommand {
  return fcall(
    flow.partition,
    "ff_stage_dependency_edge",
    [
      flow.core,
      flow.members,
      flow.edge(edge.id),
      flow.outgoing(edge.upstream),
      flow.incoming(edge.downstream),
      flow.grant(edge.id),
    ],
    [
      flow.id,
      edge.id,
      edge.upstream,
      edge.downstream,
      DEPENDENCY_KIND,
      edge.dataPassingRef,
      expectedGraphRevision,
      nowMs,
    ],
  );
}

/**
 * `ff_apply_dependency_to_child`: replies `OK, <unsatisfied count>` or `OK, already_applied`. A 14-KEYS library also
 * counts the edge in the child's group, the 8th key; an 11-KEYS one ignores that key (contract, section 7).
 */
export function applyDependencyToChild(
  flow: FlowKeys,
  child: ExecKeys,
  index: IndexKeys,
  lane: LaneId,
  edge: Edge,
  graphRevision: number,
  nowMs: number,
): ValkeyCommand {
  const laneKeys = index.lane(lane);
  const keys = [
    child.core,
    child.depsMeta,
    child.depsUnresolved,
    child.dep(edge.id),
    laneKeys.eligible,
    laneKeys.blockedDependencies,
    child.depsAllEdges,
    flow.edgeGroup(child.id),
  ];
  return fcall(child.partition, "ff_apply_dependency_to_child", keys, [
    flow.id,
    edge.id,
    edge.upstream,
    graphRevision,
    DEPENDENCY_KIND,
    edge.dataPassingRef,
    nowMs,
  ]);
}
