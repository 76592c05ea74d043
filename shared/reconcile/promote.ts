/** Promotes executions that are blocked although all of their edges are resolved. */

import type { ValkeyResult } from "#shared/contract/command.ts";
import { promoteBlockedToEligible } from "#shared/contract/graph.ts";
import { decodeReply } from "#shared/contract/reply.ts";
import { isRecordError } from "#shared/errors.ts";
import { callEach, failed, type Outcome, PROCESSED } from "#shared/reconcile/outcome.ts";
import { type BlockedExecution, readBlocked } from "#shared/reconcile/read-blocked.ts";
import type { TaskRun, Unreadable } from "#shared/reconcile/run.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";

const DEPS_NOT_SATISFIED = "deps_not_satisfied";

/**
 * Calls `ff_promote_blocked_to_eligible` for all executions in one round trip. Returns one outcome per execution, in
 * their order.
 *
 * The function checks the execution again. If an edge was applied since the read, or another run promoted the execution
 * first, it refuses, and that counts as processed.
 */
export async function promoteUnblocked(
  run: TaskRun,
  executions: readonly BlockedExecution[],
): Promise<Outcome[]> {
  await reportUnpromotable(run, executions);
  const promotable = executions.filter((execution) => unpromotable(execution) === undefined);
  for (const { changedAtMs } of promotable) {
    if (changedAtMs !== undefined) run.recordAge(METRICS.oldestResolvableAge, changedAtMs);
  }
  const results = await callPromote(run, promotable);
  return executions.map((execution) => {
    const result = results.get(execution);
    // Not promotable: reported as unreadable, and nothing to retry.
    return result === undefined ? PROCESSED : outcomeOf(run, execution, result);
  });
}

/**
 * What another edition of the library may not check: impossible edges, and the lane of the index. Returns the reason not
 * to promote an execution.
 */
function unpromotable({ keys, indexLane, lane, impossible }: BlockedExecution): Unreadable | undefined {
  // NaN counts as impossible. Such an execution should be skipped: it would run without a dependency.
  const isImpossible = !(impossible <= 0);
  if (!isImpossible && lane === indexLane) return undefined;
  const reason = isImpossible
    ? `${impossible} of its edges are impossible`
    : `it is in the index of lane ${indexLane}, but its record has lane ${lane}`;
  return {
    message: "blocked execution without unresolved edges not promoted",
    fields: { execution_id: keys.id, reason },
  };
}

/** Reads the doubtful executions again: an edge may have been resolved between the reads of an execution's keys. */
async function reportUnpromotable(run: TaskRun, executions: readonly BlockedExecution[]): Promise<void> {
  const doubtful = executions.filter((execution) => unpromotable(execution) !== undefined);
  for (const read of await readBlocked(run, doubtful)) {
    const isStill = read.kind === "blocked" && read.execution.unresolved === 0;
    const problem = isStill ? unpromotable(read.execution) : undefined;
    if (problem !== undefined) run.reportUnreadable(problem.message, problem.fields);
  }
}

async function callPromote(
  { ports, serverNowMs }: TaskRun,
  executions: readonly BlockedExecution[],
): Promise<ReadonlyMap<BlockedExecution, ValkeyResult>> {
  const results = await callEach(ports, executions, ({ keys, indexLane }) =>
    promoteBlockedToEligible(keys, ports.router.indexKeys(keys.partition), indexLane, serverNowMs),
  );
  return new Map(results.map(({ item, result }) => [item, result]));
}

function outcomeOf(run: TaskRun, { keys }: BlockedExecution, result: ValkeyResult): Outcome {
  if (!result.ok) {
    if (!isRecordError(result.error)) return result;
    run.reportUnreadable("blocked execution not promoted", {
      execution_id: keys.id,
      reason: result.error.message,
    });
    return PROCESSED;
  }
  const reply = decodeReply(result.value);
  if (!reply.ok) return failed(reply.error);
  if (reply.value.kind === "done") {
    run.count(METRICS.executionsPromoted);
    return PROCESSED;
  }
  run.count(METRICS.promotionsRefused);
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
