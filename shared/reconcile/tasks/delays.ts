/**
 * The task `delays`: makes executions eligible whose delay is over, which are retries and executions with a `delay_until`.
 * The library checks each of them again, so that a second promotion, or one that is too early, changes nothing.
 */

import { promoteDelayed } from "#shared/contract/ownership.ts";
import { decodeReply } from "#shared/contract/reply.ts";
import { isRecordError } from "#shared/errors.ts";
import type { IndexEntry } from "#shared/reconcile/indexes.ts";
import { callEach, failed, inParts, KEPT, type Outcome, PROCESSED } from "#shared/reconcile/outcome.ts";
import { executionOf } from "#shared/reconcile/records.ts";
import type { TaskRun } from "#shared/reconcile/run.ts";
import type { ReconcilerTask } from "#shared/reconcile/task.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";

export const delays: ReconcilerTask = {
  name: "delays",
  families: [{ name: "delayed", paging: "due", isPerLane: true, keyOf: ({ delayed }) => delayed }],
  metrics: [METRICS.delaysPromoted],
  ages: [METRICS.oldestDueDelay],
  batchSize: 2_000,
  sendsAtEnd: false,
  isTimeCritical: true,
  begin: (run) => ({ process: (entries) => inParts(entries, (part) => promoteDue(run, part)) }),
};

async function promoteDue(run: TaskRun, entries: readonly IndexEntry[]): Promise<Outcome[]> {
  const nowMs = Math.floor(run.serverNowMs);
  const { router } = run.ports;
  const delayed = entries.flatMap((entry) => {
    const keys = executionOf(run, entry);
    const { lane, partition } = entry.index;
    if (keys === undefined || lane === undefined) return [];
    return [{ entry, target: { keys, index: router.indexKeys(partition), lane } }];
  });
  const results = await callEach(run.ports, delayed, ({ target }) => promoteDelayed(target, nowMs));
  const outcomes = new Map(
    results.map(({ item: { entry, target }, result }): [IndexEntry, Outcome] => {
      const outcome = result.ok ? outcomeOf(run, result.value) : failed(result.error);
      if (outcome.ok ? outcome.entry === "gone" : !isRecordError(outcome.error)) {
        run.recordAge(METRICS.oldestDueDelay, entry.score);
      }
      if (outcome.ok || !isRecordError(outcome.error)) return [entry, outcome];
      run.reportUnreadable("delayed execution not promoted", {
        execution_id: target.keys.id,
        reason: outcome.error.message,
      });
      return [entry, KEPT];
    }),
  );
  // An invalid entry was reported, and stays.
  return entries.map((entry) => outcomes.get(entry) ?? KEPT);
}

function outcomeOf(run: TaskRun, value: unknown): Outcome {
  const reply = decodeReply(value);
  if (!reply.ok) return failed(reply.error);
  if (reply.value.kind === "refused")
    return failed(new Error(`ff_promote_delayed refused: ${reply.value.code}`));
  const [word] = reply.value.fields;
  if (word === "not_yet_due") return KEPT;
  // Otherwise it was no longer delayed, and its entry was removed.
  if (word === "promoted") run.count(METRICS.delaysPromoted);
  return PROCESSED;
}
