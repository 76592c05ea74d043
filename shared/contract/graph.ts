/** Calls of the functions that inspect, repair, cancel and replay a running flow (contract, section 6). */

import { fcall, type ValkeyCommand } from "#shared/contract/command.ts";
import type { EdgeId, LaneId } from "#shared/contract/ids.ts";
import type { ExecKeys, FlowKeys, IndexKeys } from "#shared/contract/keys.ts";

/** `ff_evaluate_flow_eligibility`: replies `OK, <eligibility>`. Read-only. */
export function evaluateFlowEligibility(execution: ExecKeys): ValkeyCommand {
  return fcall(execution.partition, "ff_evaluate_flow_eligibility", [execution.core, execution.depsMeta], []);
}

/** `ff_promote_blocked_to_eligible`: replies `OK`, or refuses with `deps_not_satisfied, <count>, <unresolved>`. */
export function promoteBlockedToEligible(
  execution: ExecKeys,
  index: IndexKeys,
  lane: LaneId,
  nowMs: number,
): ValkeyCommand {
  const laneKeys = index.lane(lane);
  return fcall(
    execution.partition,
    "ff_promote_blocked_to_eligible",
    [
      execution.core,
      laneKeys.blockedDependencies,
      laneKeys.eligible,
      execution.depsMeta,
      execution.depsUnresolved,
    ],
    [execution.id, nowMs],
  );
}

/** What happens to the members of a cancelled flow: all are cancelled, or none (contract, section 13). */
export type CancellationPolicy = "cancel_all" | "cancel_pending" | "flow_only";

/**
 * `ff_cancel_flow`: replies `OK, cancellation_policy, member…`. With the policy `cancel_all`, the members become pending;
 * after `graceMs` (30,000 unless given), the reconciler cancels those that the caller has not cancelled.
 */
export function cancelFlow(
  flow: FlowKeys,
  index: IndexKeys,
  reason: string,
  policy: string,
  nowMs: number,
  graceMs?: number,
): ValkeyCommand {
  return fcall(
    flow.partition,
    "ff_cancel_flow",
    [flow.core, flow.members, index.flowIndex, flow.pendingCancels, index.cancelBacklog],
    [flow.id, reason, policy, nowMs, graceMs ?? ""],
  );
}

/**
 * `ff_replay_execution`: replies `OK, <unsatisfied>`. Pass all incoming edges of a skipped flow member, and none for any other
 * execution. With `replayCount`, such an execution is refused (`execution_not_terminal, <replays>`) if its record has another
 * one by now; FlowFabric's libraries do not compare it.
 */
export function replayExecution(
  execution: ExecKeys,
  index: IndexKeys,
  lane: LaneId,
  edges: readonly EdgeId[],
  nowMs: number,
  replayCount = "",
): ValkeyCommand {
  const laneKeys = index.lane(lane);
  const counts = edges.length === 0 && replayCount !== "" ? [replayCount] : [];
  const keys = [execution.core, laneKeys.terminal, laneKeys.eligible, execution.leaseHistory];
  if (edges.length > 0) {
    keys.push(laneKeys.blockedDependencies, execution.depsMeta, execution.depsUnresolved);
    for (const edge of edges) keys.push(execution.dep(edge));
  }
  return fcall(execution.partition, "ff_replay_execution", keys, [execution.id, nowMs, ...edges, ...counts]);
}
