/**
 * The task `cancellations`: finishes what a caller has left. It cancels the pending members of cancelled flows, once their
 * grace is over, and the siblings of decided groups (contract, section 13).
 */

import type { Pipelines } from "#shared/contract/command.ts";
import { pairResults } from "#shared/contract/results.ts";
import { ValkeyError } from "#shared/errors.ts";
import { cancelFlows } from "#shared/reconcile/cancel-flows.ts";
import { cancelPendingGroups } from "#shared/reconcile/cancel-pending-groups.ts";
import type { IndexEntry, IndexFamily } from "#shared/reconcile/indexes.ts";
import { callEach, failed, type Outcome } from "#shared/reconcile/outcome.ts";
import type { TaskRun } from "#shared/reconcile/run.ts";
import type { ReconcilerTask } from "#shared/reconcile/task.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";

const FLOWS: IndexFamily = {
  name: "cancel_backlog",
  paging: "due",
  isPerLane: false,
  keyOf: ({ cancelBacklog }) => cancelBacklog,
};
const GROUPS: IndexFamily = {
  name: "pending_cancel_groups",
  paging: "set",
  isPerLane: false,
  keyOf: ({ pendingCancelGroups }) => pendingCancelGroups,
};

export const cancellations: ReconcilerTask = {
  name: "cancellations",
  families: [FLOWS, GROUPS],
  metrics: [METRICS.membersCancelled, METRICS.siblingsCancelled, METRICS.completionsSent],
  ages: [],
  batchSize: 100,
  sendsAtEnd: false,
  isTimeCritical: false,
  begin: (run) => ({ process: (entries) => cancelListed(run, entries) }),
};

async function cancelListed(run: TaskRun, entries: readonly IndexEntry[]): Promise<Outcome[]> {
  const valkey: Pipelines = {
    // Loads the library where it is missing.
    pipelined: async (commands) =>
      (await callEach(run.ports, commands, (command) => command)).map(({ result }) => result),
  };
  const outcomes = new Map<IndexEntry, Outcome>();
  for (const [family, process] of [
    [FLOWS, cancelFlows],
    [GROUPS, cancelPendingGroups],
  ] as const) {
    const own = entries.filter(({ index }) => index.family.name === family.name);
    if (own.length === 0) continue;
    const results = await process(run, valkey, own);
    for (const { item, result } of pairResults(own, results, noOutcome)) outcomes.set(item, result);
  }
  return entries.map((entry) => outcomes.get(entry) ?? noOutcome(entry));
}

function noOutcome({ member }: IndexEntry): Outcome {
  return failed(new ValkeyError(`no outcome for the entry ${member}`));
}
