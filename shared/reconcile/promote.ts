/** Promotes executions that are blocked although all of their edges are resolved. */

import type { ValkeyResult } from "#shared/contract/command.ts";
import { promoteBlockedToEligible } from "#shared/contract/graph.ts";
import { decodeReply } from "#shared/contract/reply.ts";
import { failed, type Outcome, PROCESSED, pipelineEach } from "#shared/reconcile/outcome.ts";
import type { BlockedExecution } from "#shared/reconcile/read-blocked.ts";
import type { SweepRun } from "#shared/reconcile/run.ts";

const DEPS_NOT_SATISFIED = "deps_not_satisfied";

/**
 * Calls `ff_promote_blocked_to_eligible` for all executions in one round trip. Returns one outcome per execution, in
 * their order.
 *
 * The function checks the execution again. If an edge was applied since the read, or another run promoted the execution
 * first, it refuses, and that counts as processed.
 */
export async function promoteUnblocked(
  run: SweepRun,
  executions: readonly BlockedExecution[],
): Promise<Outcome[]> {
  const promotable = executions.filter((execution) => isPromotable(run, execution));
  const results = await callPromote(run, promotable);
  return executions.map((execution) => {
    const result = results.get(execution);
    // Not promotable: reported as unreadable, and nothing to retry.
    return result === undefined ? PROCESSED : outcomeOf(run, execution, result);
  });
}

/** Checks what another edition of the library may not check: impossible edges, and the lane of the index. */
function isPromotable(
  run: SweepRun,
  { keys, index, lane, impossible, changedAtMs }: BlockedExecution,
): boolean {
  // NaN counts as impossible. Such an execution should be skipped: it would run without a dependency.
  const isImpossible = !(impossible <= 0);
  if (isImpossible || lane !== index.lane) {
    run.reportUnreadable("blocked execution without unresolved edges not promoted", {
      execution_id: keys.id,
      reason: isImpossible
        ? `${impossible} of its edges are impossible`
        : `it is in the index of lane ${index.lane}, but its record has lane ${lane}`,
    });
    return false;
  }
  if (changedAtMs !== undefined) run.recordResolvableSince(changedAtMs);
  return true;
}

/** Loads the library if it is missing, and calls the function again for the executions that it was missing for. */
async function callPromote(
  run: SweepRun,
  executions: readonly BlockedExecution[],
): Promise<ReadonlyMap<BlockedExecution, ValkeyResult>> {
  const results = await callPromoteOnce(run, executions);
  const toRetry = executions.filter((execution) => isFunctionMissing(results.get(execution)));
  if (toRetry.length === 0) return results;
  await run.ports.ensureLibrary();
  return new Map([...results, ...(await callPromoteOnce(run, toRetry))]);
}

async function callPromoteOnce(
  { ports, serverNowMs }: SweepRun,
  executions: readonly BlockedExecution[],
): Promise<Map<BlockedExecution, ValkeyResult>> {
  const results = await pipelineEach(ports.valkey, executions, ({ keys, index }) =>
    promoteBlockedToEligible(keys, ports.router.indexKeys(keys.partition), index.lane, serverNowMs),
  );
  return new Map(results.map(({ item, result }) => [item, result]));
}

function isFunctionMissing(result: ValkeyResult | undefined): boolean {
  return result?.ok === false && result.error.message.startsWith("ERR Function not found");
}

function outcomeOf(run: SweepRun, { keys }: BlockedExecution, result: ValkeyResult): Outcome {
  if (!result.ok) return result;
  const reply = decodeReply(result.value);
  if (!reply.ok) return failed(reply.error);
  if (reply.value.kind === "done") {
    run.counts.promoted += 1;
    return PROCESSED;
  }
  run.counts.refused += 1;
  const { code, detail } = reply.value;
  // No edge is unresolved, but the counter of unsatisfied edges is not 0. No completion will ever correct it.
  if (code === DEPS_NOT_SATISFIED && detail[1] === "0") {
    run.reportUnreadable("blocked execution has no unresolved edges, but counts unsatisfied ones", {
      execution_id: keys.id,
      unsatisfied: detail[0] ?? "",
    });
  }
  return PROCESSED;
}
