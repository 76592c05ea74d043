/**
 * The task `timeouts`: expires executions whose attempt has run too long or whose deadline has passed, and sends their
 * completions.
 *
 * Each call passes the score that was read: if the entry has another one by now, because a new attempt has begun, the
 * library answers `not_due` and changes nothing. If the process dies after the call, or its reply is lost, the task
 * `dependencies` finds the children that wait.
 */

import { decodeReply } from "#shared/contract/reply.ts";
import { type ExpiryReason, expireExecution } from "#shared/contract/upkeep.ts";
import { isRecordError } from "#shared/errors.ts";
import { type EndedExecution, sendEnded } from "#shared/reconcile/ended.ts";
import type { IndexEntry } from "#shared/reconcile/indexes.ts";
import { callEach, failed, inParts, KEPT, type Outcome, PROCESSED } from "#shared/reconcile/outcome.ts";
import { type ListedExecution, type RecordRead, readRecords } from "#shared/reconcile/records.ts";
import type { TaskRun } from "#shared/reconcile/run.ts";
import type { ReconcilerTask } from "#shared/reconcile/task.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";

const DEADLINE: ExpiryReason = "execution_deadline";

export const timeouts: ReconcilerTask = {
  name: "timeouts",
  families: [
    { name: "attempt_timeout", paging: "due", isPerLane: false, keyOf: (keys) => keys.attemptTimeout },
    { name: DEADLINE, paging: "due", isPerLane: false, keyOf: (keys) => keys.executionDeadline },
  ],
  metrics: [METRICS.executionsExpired, METRICS.completionsSent],
  ages: [],
  batchSize: 2_000,
  sendsAtEnd: false,
  isTimeCritical: true,
  begin: (run) => ({ process: (entries) => inParts(entries, (part) => expireDue(run, part)) }),
};

async function expireDue(run: TaskRun, entries: readonly IndexEntry[]): Promise<Outcome[]> {
  const reads = await readRecords(run, entries);
  const listed = reads.flatMap((read) => (read.kind === "read" ? [read.execution] : []));
  const results = await callEach(run.ports, listed, ({ entry, target, attempt }) =>
    expireExecution(target, attempt, reasonOf(entry), entry.score),
  );
  const ended: EndedExecution[] = [];
  const outcomes = new Map<ListedExecution, Outcome>();
  for (const { item, result } of results) {
    const expiry = result.ok ? expiryOf(result.value) : result.error;
    if (expiry === "expired") {
      run.count(METRICS.executionsExpired);
      const { flowId, target } = item;
      if (flowId !== undefined) ended.push({ keys: target.keys, flowId, outcome: "expired" });
    }
    outcomes.set(item, outcomeOf(run, item, expiry));
  }
  await sendEnded(run, ended);
  return reads.map((read) => outcomeOfRead(read, outcomes));
}

function reasonOf({ index: { family } }: IndexEntry): ExpiryReason {
  return family.name === DEADLINE ? DEADLINE : "attempt_timeout";
}

/** The word of the reply. `not_due`: the entry has another score by now, or its time has not come. */
function expiryOf(value: unknown): string | Error {
  const reply = decodeReply(value);
  if (!reply.ok) return reply.error;
  if (reply.value.kind === "refused") return new Error(`ff_expire_execution refused: ${reply.value.code}`);
  return reply.value.fields[0] ?? "";
}

function outcomeOf(run: TaskRun, { target: { keys } }: ListedExecution, expiry: string | Error): Outcome {
  if (typeof expiry === "string") return expiry === "not_due" ? KEPT : PROCESSED;
  if (!isRecordError(expiry)) return failed(expiry);
  run.reportUnreadable("execution not expired", { execution_id: keys.id, reason: expiry.message });
  return KEPT;
}

function outcomeOfRead(read: RecordRead, outcomes: ReadonlyMap<ListedExecution, Outcome>): Outcome {
  if (read.kind === "invalid") return KEPT;
  if (read.kind === "failed") return failed(read.error);
  return outcomes.get(read.execution) ?? failed(new Error("the call of ff_expire_execution has no result"));
}
