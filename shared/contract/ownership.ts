/** Calls of the functions that claim, complete, fail and cancel an execution (contract, section 6). */

import { fcall, type ValkeyArgument, type ValkeyCommand } from "#shared/contract/command.ts";
import { type AttemptIndex, type LaneId, parseAttemptIndex, unwrap } from "#shared/contract/ids.ts";
import type { ExecKeys, IndexKeys } from "#shared/contract/keys.ts";
import { noopKey } from "#shared/contract/keys.ts";

/** An execution, the indexes of its partition, and its lane. */
export interface Target {
  readonly keys: ExecKeys;
  readonly index: IndexKeys;
  readonly lane: LaneId;
}

/** Names a worker in the records of what it claims. */
export interface WorkerIdentity {
  /** Names the program, for example after its lane. */
  readonly workerId: string;
  /** Unique for each process. */
  readonly instanceId: string;
  /** What the worker offers to executions that require capabilities (contract, section 15). At most 256, without commas. */
  readonly capabilities?: readonly string[];
}

/** The lease that a claim returned, and the attempt that it covers. */
export interface Lease {
  readonly leaseId: string;
  readonly epoch: string;
  readonly attemptId: string;
  readonly attemptIndex: AttemptIndex;
}

const PLACEHOLDER_ATTEMPT = unwrap(parseAttemptIndex("0"));

/**
 * `ff_issue_claim_grant`: replies `OK, execution_id`, or refuses with `capability_mismatch, <missing>`. `ttlMs`: how long
 * the worker may take to claim.
 */
export function issueClaimGrant(target: Target, worker: WorkerIdentity, ttlMs: number): ValkeyCommand {
  const { keys, index, lane } = target;
  return fcall(
    keys.partition,
    "ff_issue_claim_grant",
    [keys.core, keys.claimGrant, index.lane(lane).eligible],
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

export interface ClaimRequest {
  readonly leaseId: string;
  readonly attemptId: string;
  readonly leaseTtlMs: number;
  /** How long after the claim the worker should have renewed its lease. Nothing enforces it. */
  readonly renewBeforeMs: number;
  /** How long the attempt may run before it expires. No limit unless given. */
  readonly attemptTimeoutMs?: number;
}

/** `ff_claim_execution`: replies `OK, lease_id, epoch, expires_at, attempt_id, attempt_index, attempt_type`. */
export function claimExecution(target: Target, worker: WorkerIdentity, terms: ClaimRequest): ValkeyCommand {
  return claimWith("ff_claim_execution", target, worker, terms);
}

/**
 * `ff_issue_grant_and_claim`: grants and claims in one call, and replies as `ff_claim_execution`. The worker's
 * capabilities are not sent: an execution that requires any refuses with `capability_mismatch`. Another worker was faster
 * if it refuses with `execution_not_eligible`, `grant_already_exists` or `execution_not_in_eligible_set`. Only Sluice's
 * library has this form of the function.
 */
export function issueGrantAndClaim(
  target: Target,
  worker: WorkerIdentity,
  terms: ClaimRequest,
): ValkeyCommand {
  return claimWith("ff_issue_grant_and_claim", target, worker, terms);
}

function claimWith(
  name: string,
  { keys, index, lane }: Target,
  worker: WorkerIdentity,
  terms: ClaimRequest,
): ValkeyCommand {
  const laneKeys = index.lane(lane);
  return fcall(
    keys.partition,
    name,
    [
      keys.core,
      keys.claimGrant,
      laneKeys.eligible,
      index.leaseExpiry,
      index.workerLeases(worker.instanceId),
      keys.attempt(PLACEHOLDER_ATTEMPT),
      keys.attemptUsage(PLACEHOLDER_ATTEMPT),
      keys.attemptPolicy(PLACEHOLDER_ATTEMPT),
      keys.attempts,
      keys.leaseCurrent,
      keys.leaseHistory,
      laneKeys.active,
      index.attemptTimeout,
      index.executionDeadline,
    ],
    [
      keys.id,
      worker.workerId,
      worker.instanceId,
      lane,
      "",
      terms.leaseId,
      terms.leaseTtlMs,
      terms.renewBeforeMs,
      terms.attemptId,
      "",
      terms.attemptTimeoutMs ?? "",
      "",
    ],
  );
}

/** `ff_complete_execution`: replies `OK, completed` and publishes the completion event. */
export function completeExecution(
  target: Target,
  worker: WorkerIdentity,
  lease: Lease,
  result: ValkeyArgument,
): ValkeyCommand {
  const { keys, index, lane } = target;
  const laneKeys = index.lane(lane);
  return fcall(
    keys.partition,
    "ff_complete_execution",
    [
      keys.core,
      keys.attempt(lease.attemptIndex),
      index.leaseExpiry,
      index.workerLeases(worker.instanceId),
      laneKeys.terminal,
      keys.leaseCurrent,
      keys.leaseHistory,
      laneKeys.active,
      keys.streamMeta(lease.attemptIndex),
      keys.result,
      index.attemptTimeout,
      index.executionDeadline,
    ],
    [keys.id, lease.leaseId, lease.epoch, lease.attemptId, result],
  );
}

/** `ff_fail_execution`: replies `OK, retry_scheduled, <delay_until>` or `OK, terminal_failed`. */
export function failExecution(
  target: Target,
  worker: WorkerIdentity,
  lease: Lease,
  failure: { readonly reason: string; readonly category: string; readonly retryPolicyJson: string },
): ValkeyCommand {
  const { keys, index, lane } = target;
  const laneKeys = index.lane(lane);
  return fcall(
    keys.partition,
    "ff_fail_execution",
    [
      keys.core,
      keys.attempt(lease.attemptIndex),
      index.leaseExpiry,
      index.workerLeases(worker.instanceId),
      laneKeys.terminal,
      laneKeys.delayed,
      keys.leaseCurrent,
      keys.leaseHistory,
      laneKeys.active,
      keys.streamMeta(lease.attemptIndex),
      index.attemptTimeout,
      index.executionDeadline,
    ],
    [
      keys.id,
      lease.leaseId,
      lease.epoch,
      lease.attemptId,
      failure.reason,
      failure.category,
      failure.retryPolicyJson,
    ],
  );
}

/**
 * `ff_cancel_execution`: replies `OK, cancelled, <phase before>`. Without a lease, it cancels the attempt of any worker.
 * With one, it refuses with `stale_lease` if an active execution has another, unless the source is `operator_override`.
 */
export function cancelExecution(
  target: Target,
  worker: WorkerIdentity,
  attempt: AttemptIndex,
  cancellation: { readonly reason: string; readonly source: string; readonly lease?: Lease },
): ValkeyCommand {
  const { keys, index, lane } = target;
  const laneKeys = index.lane(lane);
  const unused = noopKey(keys.partition);
  return fcall(
    keys.partition,
    "ff_cancel_execution",
    [
      keys.core,
      keys.attempt(attempt),
      keys.streamMeta(attempt),
      keys.leaseCurrent,
      keys.leaseHistory,
      index.leaseExpiry,
      index.workerLeases(worker.instanceId),
      unused,
      unused,
      unused,
      index.suspensionTimeout,
      laneKeys.terminal,
      index.attemptTimeout,
      index.executionDeadline,
      laneKeys.eligible,
      laneKeys.delayed,
      laneKeys.blockedDependencies,
      laneKeys.blockedBudget,
      laneKeys.blockedQuota,
      laneKeys.blockedRoute,
      laneKeys.blockedOperator,
    ],
    [
      keys.id,
      cancellation.reason,
      cancellation.source,
      cancellation.lease?.leaseId ?? "",
      cancellation.lease?.epoch ?? "",
    ],
  );
}

/**
 * `ff_promote_delayed`: makes an execution eligible if its `delay_until` is not later than `nowMs` (contract, section
 * 11). Replies `OK` and one word: `promoted`, `not_yet_due`, `not_found_cleaned`, `not_runnable_cleaned` or
 * `not_delayed_cleaned`.
 *
 * @param nowMs Milliseconds since the epoch, by the server's clock. The function trusts it.
 */
export function promoteDelayed(target: Target, nowMs: number): ValkeyCommand {
  const { keys, index, lane } = target;
  const laneKeys = index.lane(lane);
  return fcall(
    keys.partition,
    "ff_promote_delayed",
    [keys.core, laneKeys.delayed, laneKeys.eligible],
    [keys.id, nowMs],
  );
}
