/** Calls of Sluice's own functions that count, keep and delete ended flows (contract, sections 12 and 14). */

import { fcall, type ValkeyCommand } from "#shared/contract/command.ts";
import type { LaneId } from "#shared/contract/ids.ts";
import type { ExecKeys, FlowKeys, IndexKeys } from "#shared/contract/keys.ts";

/** Edges that one call of `sluice_purge_execution` deletes at most. Bounds how long it blocks the server: about 1 ms. */
const MAX_EDGES_PER_CALL = 1_000;

/** `sluice_count_members`: replies `OK, <open members>, <members>`. */
export function countMembers(flow: FlowKeys): ValkeyCommand {
  return fcall(flow.partition, "sluice_count_members", [flow.core, flow.members, flow.summary], [flow.id]);
}

/**
 * `sluice_begin_purge`: replies `OK` and `begun`, `kept` or `changed`. `endedAt` is the flow's score in `flows_ended`;
 * `retainedUntilMs` is in milliseconds since the epoch.
 */
export function beginPurge(
  flow: FlowKeys,
  index: IndexKeys,
  endedAt: number,
  retainedUntilMs: number,
): ValkeyCommand {
  const keys = [flow.core, flow.summary, index.flowsEnded, flow.purged];
  return fcall(flow.partition, "sluice_begin_purge", keys, [flow.id, endedAt, retainedUntilMs]);
}

/**
 * `sluice_purge_execution` for a member of a flow that is being purged: replies `OK` and `purged`, `more` or
 * `kept, <flow_id>`.
 */
export function purgeMember(flow: FlowKeys, member: ExecKeys, maxEdges = MAX_EDGES_PER_CALL): ValkeyCommand {
  return fcall(
    member.partition,
    "sluice_purge_execution",
    [member.core],
    [member.id, flow.id, "", "", maxEdges],
  );
}

/**
 * `sluice_purge_execution` for an execution outside any flow that `lane` lists as terminal: replies `OK` and `purged`,
 * `more` or `kept, <flow_id>`.
 */
export function purgeSoloExecution(execution: ExecKeys, lane: LaneId, retentionMs: number): ValkeyCommand {
  const args = [execution.id, "", lane, retentionMs, MAX_EDGES_PER_CALL];
  return fcall(execution.partition, "sluice_purge_execution", [execution.core], args);
}

/** `sluice_finish_purge`: replies `OK` and `finished`, `not_begun`, or `members_left, <members>`. */
export function finishPurge(flow: FlowKeys, index: IndexKeys): ValkeyCommand {
  return fcall(
    flow.partition,
    "sluice_finish_purge",
    [
      flow.core,
      flow.members,
      flow.summary,
      flow.tags,
      flow.pendingCancels,
      flow.purged,
      index.flowIndex,
      index.flowsEnded,
      index.flowEndsUnsent,
      index.cancelBacklog,
    ],
    [flow.id],
  );
}

/** `sluice_confirm_flow_end`: replies `OK` and `confirmed` or `changed`. */
export function confirmFlowEnd(flow: FlowKeys, index: IndexKeys, endedAt: number): ValkeyCommand {
  return fcall(flow.partition, "sluice_confirm_flow_end", [index.flowEndsUnsent], [flow.id, endedAt]);
}
