/** Ends an execution that a worker has claimed, in place of that worker. */

import { type ExecutionRecord, targetOf } from "#operate/execution.ts";
import type { OperateContext } from "#operate/operation.ts";
import { completionsOf } from "#operate/write/completions.ts";
import { endLeases } from "#operate/write/leases.ts";
import { operatorIdentity } from "#sdk/worker/complete-execution.ts";
import { finishBatch, type RunOutcome } from "#sdk/worker/finish.ts";
import { reclaimTargets } from "#sdk/worker/reclaim.ts";
import { InvalidRecordError, ValkeyError } from "#shared/errors.ts";

/** An operator is no worker: only its own policy limits how often an execution is reclaimed. */
const NO_LIMIT = Number.MAX_SAFE_INTEGER;

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
  if (fields.ownership_state === "leased") {
    const [verdict] = await endLeases(context, [execution], "an operator ends the execution");
    if (verdict?.status === "failed") throw new ValkeyError(verdict.text);
    if (verdict?.status !== "changed") return false;
  }
  const completions = completionsOf(context);
  const deps = { ...context, completions, identity: operatorIdentity(fields.required_capabilities) };
  const [leased] = await reclaimTargets(deps, [{ target, attempt }], { reclaimLimit: NO_LIMIT });
  if (leased === undefined) return false;
  const [worked] = await finishBatch(deps, [
    { claimed: { ...leased, payload: "", retryPolicyJson: "" }, run: outcome },
  ]);
  return worked?.status !== "lease_lost";
}
