/** Ends an execution that a worker has claimed, in place of that worker. */

import { type ExecutionRecord, targetOf } from "#operate/execution.ts";
import type { OperateContext } from "#operate/operation.ts";
import { completionsOf } from "#operate/write/completions.ts";
import { OPERATOR, operatorIdentity } from "#sdk/worker/complete-execution.ts";
import { finishBatch, type RunOutcome } from "#sdk/worker/finish.ts";
import { reclaimTargets } from "#sdk/worker/reclaim.ts";
import type { Pipelines, ValkeyCommand } from "#shared/contract/command.ts";
import type { Target } from "#shared/contract/ownership.ts";
import type { Reply } from "#shared/contract/reply.ts";
import { markLeaseExpiredIfDue, revokeLease } from "#shared/contract/upkeep.ts";
import { InvalidRecordError } from "#shared/errors.ts";
import { refusalError, replyOrThrow, valueOrThrow } from "#shared/valkey/batches.ts";

/** An operator is no worker: only its own policy limits how often an execution is reclaimed. */
const NO_LIMIT = Number.MAX_SAFE_INTEGER;

/** Whether the worker of an active execution can still report its outcome. */
export function hasLiveOwner({ fields, readAtMs }: ExecutionRecord): boolean {
  // A command that ended between its claim and the outcome leaves a lease of the operator.
  if (fields.ownership_state !== "leased" || fields.current_worker_id === OPERATOR) return false;
  return Number(fields.lease_expires_at) > readAtMs;
}

/**
 * Takes the execution over from its worker as a new attempt, and ends it. Returns false if it has another owner or state by
 * now. Throws as `finishBatch` and `claimBatch` do.
 *
 * If the process dies before the outcome is written, the execution is interrupted, or leased to the operator. A repetition ends
 * it.
 */
export async function takeOver(
  context: OperateContext,
  execution: ExecutionRecord,
  outcome: RunOutcome,
): Promise<boolean> {
  const target = targetOf(context.router, execution);
  const { attempt, fields } = execution;
  if (target === undefined || attempt === undefined) {
    throw new InvalidRecordError(`execution ${execution.keys.id} has no usable lane or attempt`);
  }
  if (!(await endLease(context, execution, target))) return false;
  const completions = completionsOf(context);
  const deps = { ...context, completions, identity: operatorIdentity(fields.required_capabilities) };
  const [leased] = await reclaimTargets(deps, [{ target, attempt }], { reclaimLimit: NO_LIMIT });
  if (leased === undefined) return false;
  const [worked] = await finishBatch(deps, [
    { claimed: { ...leased, payload: "", retryPolicyJson: "" }, run: outcome },
  ]);
  return worked?.status !== "lease_lost";
}

/** Marks the lease as expired, or revokes it. Returns false if the execution has another lease by now, or none. */
async function endLease(
  { valkey }: OperateContext,
  execution: ExecutionRecord,
  target: Target,
): Promise<boolean> {
  const { fields, readAtMs } = execution;
  if (fields.ownership_state !== "leased") return true;
  if (Number(fields.lease_expires_at) <= readAtMs) {
    const reply = await call(valkey, markLeaseExpiredIfDue(target));
    return reply.kind === "done" && reply.fields[0] !== "not_yet_expired";
  }
  const reason = "an operator ends the execution";
  const revoked = await call(
    valkey,
    revokeLease(target, fields.current_worker_instance_id, fields.current_lease_id, reason),
  );
  if (revoked.kind === "done") return true;
  if (revoked.code === "stale_lease" || revoked.code === "execution_not_active") return false;
  throw refusalError("ff_revoke_lease", revoked);
}

async function call(valkey: Pipelines, command: ValkeyCommand): Promise<Reply> {
  return replyOrThrow(valueOrThrow((await valkey.pipelined([command]))[0]));
}
