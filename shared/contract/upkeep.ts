/**
 * Calls of the functions that keep executions moving when a worker or a caller does not: leases that run out, timeouts,
 * cancelling (contract, sections 10, 11, 13 and 15).
 */

import { fcall, type ValkeyCommand } from "#shared/contract/command.ts";
import type { AttemptIndex, ExecutionId } from "#shared/contract/ids.ts";
import type { FlowKeys, IndexKeys } from "#shared/contract/keys.ts";
import type { Lease, Target, WorkerIdentity } from "#shared/contract/ownership.ts";

/** `ff_renew_lease`: replies `OK, expires_at`. Times are in milliseconds. */
export function renewLease(
  { keys, index }: Target,
  lease: Lease,
  { ttlMs, graceMs }: { readonly ttlMs: number; readonly graceMs: number },
): ValkeyCommand {
  return fcall(
    keys.partition,
    "ff_renew_lease",
    [keys.core, keys.leaseCurrent, keys.leaseHistory, index.leaseExpiry],
    [keys.id, lease.attemptIndex, lease.attemptId, lease.leaseId, lease.epoch, ttlMs, graceMs],
  );
}

/** `ff_mark_lease_expired_if_due`: replies `OK, marked_expired` or `ALREADY_SATISFIED, <why not>`. */
export function markLeaseExpiredIfDue({ keys, index }: Target): ValkeyCommand {
  return fcall(
    keys.partition,
    "ff_mark_lease_expired_if_due",
    [keys.core, keys.leaseCurrent, index.leaseExpiry, keys.leaseHistory],
    [keys.id],
  );
}

/**
 * `ff_revoke_lease`: replies `OK, revoked, lease_id, epoch`. `instanceId` is the holder's; an empty `leaseId` revokes any
 * lease.
 */
export function revokeLease(
  { keys, index }: Target,
  instanceId: string,
  leaseId: string,
  reason: string,
): ValkeyCommand {
  return fcall(
    keys.partition,
    "ff_revoke_lease",
    [keys.core, keys.leaseCurrent, keys.leaseHistory, index.leaseExpiry, index.workerLeases(instanceId)],
    [keys.id, leaseId, reason],
  );
}

/**
 * `ff_issue_reclaim_grant`: replies `OK, execution_id`, or refuses with `capability_mismatch, <missing>`. `ttlMs`: how
 * long the worker may take to reclaim.
 */
export function issueReclaimGrant(
  { keys, index, lane }: Target,
  worker: WorkerIdentity,
  ttlMs: number,
): ValkeyCommand {
  return fcall(
    keys.partition,
    "ff_issue_reclaim_grant",
    [keys.core, keys.claimGrant, index.leaseExpiry],
    [
      keys.id,
      worker.workerId,
      worker.instanceId,
      lane,
      "",
      ttlMs,
      "",
      "",
      worker.capabilities?.join(",") ?? "",
    ],
  );
}

/** The terms of a lease that a worker takes over. */
export interface ReclaimRequest {
  /** The attempt that was interrupted. */
  readonly interrupted: AttemptIndex;
  readonly leaseId: string;
  readonly leaseTtlMs: number;
  readonly attemptId: string;
  /** How often an execution is reclaimed unless its policy says otherwise; the library's default unless given. */
  readonly limit?: number;
}

/**
 * `ff_reclaim_execution`: replies as `ff_claim_execution`, with type `reclaim`. The refusal `max_retries_exhausted` ends
 * the execution.
 */
export function reclaimExecution(
  { keys, index, lane }: Target,
  worker: WorkerIdentity,
  request: ReclaimRequest,
): ValkeyCommand {
  const { interrupted } = request;
  return fcall(
    keys.partition,
    "ff_reclaim_execution",
    [
      keys.core,
      keys.claimGrant,
      keys.attempt(interrupted),
      keys.streamMeta(interrupted),
      // The library replaces the index: only the record knows the next one.
      keys.attempt(interrupted),
      keys.attemptUsage(interrupted),
      keys.attempts,
      keys.leaseCurrent,
      keys.leaseHistory,
      index.leaseExpiry,
      index.workerLeases(worker.instanceId),
      index.lane(lane).active,
      index.attemptTimeout,
      index.executionDeadline,
    ],
    [
      keys.id,
      worker.workerId,
      worker.instanceId,
      lane,
      request.leaseId,
      request.leaseTtlMs,
      request.attemptId,
      "",
      ...(request.limit === undefined ? [] : [request.limit]),
    ],
  );
}

export type ExpiryReason = "attempt_timeout" | "execution_deadline";

/**
 * `ff_expire_execution`: replies `OK, expired, <phase before>`, `OK, not_found_cleaned`, `OK, already_terminal`, or
 * `OK, not_due` where the zset has another score than `score` by now. FlowFabric's libraries ignore `score`.
 */
export function expireExecution(
  { keys, index, lane }: Target,
  attempt: AttemptIndex,
  reason: ExpiryReason,
  score: number,
): ValkeyCommand {
  const laneKeys = index.lane(lane);
  return fcall(
    keys.partition,
    "ff_expire_execution",
    [
      keys.core,
      keys.attempt(attempt),
      keys.streamMeta(attempt),
      keys.leaseCurrent,
      keys.leaseHistory,
      index.leaseExpiry,
      // The library removes the lease of the worker that the record names.
      index.workerLeases(""),
      laneKeys.active,
      laneKeys.terminal,
      index.attemptTimeout,
      index.executionDeadline,
      laneKeys.suspended,
      index.suspensionTimeout,
      keys.suspensionCurrent,
    ],
    [keys.id, reason, score],
  );
}

/** `ff_update_progress`: replies `OK`. `percentage` is 0 to 100; an empty message keeps the last one. */
export function updateProgress(
  { keys }: Target,
  lease: Lease,
  percentage: number,
  message: string,
): ValkeyCommand {
  return fcall(
    keys.partition,
    "ff_update_progress",
    [keys.core],
    [keys.id, lease.leaseId, lease.epoch, percentage, message],
  );
}

/** `ff_change_priority`: replies `OK, <priority before>, <priority now>`. */
export function changePriority({ keys, index, lane }: Target, priority: number): ValkeyCommand {
  return fcall(
    keys.partition,
    "ff_change_priority",
    [keys.core, index.lane(lane).eligible],
    [keys.id, priority],
  );
}

/** `ff_ack_cancel_member`: replies `OK`. `member` may be malformed: the function only removes it from the set. */
export function ackCancelMember(flow: FlowKeys, index: IndexKeys, member: string): ValkeyCommand {
  return fcall(
    flow.partition,
    "ff_ack_cancel_member",
    [flow.pendingCancels, index.cancelBacklog],
    [member, flow.id],
  );
}

/** `ff_drain_sibling_cancel_group`: replies `OK, drained | already_drained | drained_sans_group, ""`. 14-KEYS edition. */
export function drainSiblingCancelGroup(flow: FlowKeys, index: IndexKeys, child: ExecutionId): ValkeyCommand {
  return fcall(
    flow.partition,
    "ff_drain_sibling_cancel_group",
    [index.pendingCancelGroups, flow.edgeGroup(child)],
    [flow.id, child],
  );
}

/**
 * `ff_reconcile_sibling_cancel_group`: replies `OK, completed_drain, ""`, `OK, no_op, <why>` or `OK, sremmed_stale, <why>`.
 * 14-KEYS edition.
 */
export function reconcileSiblingCancelGroup(
  flow: FlowKeys,
  index: IndexKeys,
  child: ExecutionId,
): ValkeyCommand {
  return fcall(
    flow.partition,
    "ff_reconcile_sibling_cancel_group",
    [index.pendingCancelGroups, flow.edgeGroup(child)],
    [flow.id, child],
  );
}
