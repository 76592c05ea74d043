/**
 * The task `delays`: makes executions eligible whose delay is over, which are retries and executions with a `delay_until`.
 * The library checks each of them again, so that a second promotion, or one that is too early, changes nothing. The task
 * announces what it promoted, unless a delayed message did.
 */

import { command } from "#shared/contract/command.ts";
import { type FlowId, parseStoredFlowId } from "#shared/contract/ids.ts";
import { promoteDelayed, type Target } from "#shared/contract/ownership.ts";
import { fieldText } from "#shared/contract/record.ts";
import { decodeReply } from "#shared/contract/reply.ts";
import { isRecordError } from "#shared/errors.ts";
import { announceAvailable } from "#shared/reconcile/announce.ts";
import type { IndexEntry } from "#shared/reconcile/indexes.ts";
import {
  callEach,
  failed,
  inParts,
  KEPT,
  type Outcome,
  PROCESSED,
  pipelineEach,
} from "#shared/reconcile/outcome.ts";
import { executionOf } from "#shared/reconcile/records.ts";
import type { TaskRun } from "#shared/reconcile/run.ts";
import type { ReconcilerTask } from "#shared/reconcile/task.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";

const PROMOTED = "promoted";

export const delays: ReconcilerTask = {
  name: "delays",
  families: [{ name: "delayed", paging: "due", isPerLane: true, keyOf: ({ delayed }) => delayed }],
  metrics: [METRICS.delaysPromoted, METRICS.readyAnnounced],
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
  const [results, flowIds] = await Promise.all([
    callEach(run.ports, delayed, ({ target }) => promoteDelayed(target, nowMs)),
    readFlowIds(
      run,
      delayed.map(({ target }) => target),
    ),
  ]);
  const promoted = results.flatMap(({ item: { target }, result }) =>
    result.ok && isPromoted(result.value) ? [target] : [],
  );
  run.count(METRICS.delaysPromoted, promoted.length);
  await announceAvailable(
    run,
    promoted.flatMap((target) =>
      flowIds.has(target) ? [{ executionId: target.keys.id, flowId: flowIds.get(target) }] : [],
    ),
  );
  const outcomes = new Map(
    results.map(({ item: { entry, target }, result }): [IndexEntry, Outcome] => {
      const outcome = result.ok ? outcomeOf(result.value) : failed(result.error);
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

/** The flows of the executions whose lanes have a ready queue. An execution that is not in the map is not announced here. */
async function readFlowIds(
  run: TaskRun,
  targets: readonly Target[],
): Promise<ReadonlyMap<Target, FlowId | undefined>> {
  const { readyQueues, valkey } = run.ports;
  const announced = targets.filter(({ lane }) => readyQueues?.publisher.announces(lane));
  const reads = await pipelineEach(valkey, announced, ({ keys }) =>
    command(keys.partition, "hget", keys.core, "flow_id"),
  );
  return new Map(
    reads.flatMap(({ item, result }): [Target, FlowId | undefined][] => {
      if (!result.ok) return [];
      if (fieldText(result.value) === "") return [[item, undefined]];
      const flow = parseStoredFlowId(result.value);
      return flow.ok ? [[item, flow.value]] : [];
    }),
  );
}

function isPromoted(value: unknown): boolean {
  const reply = decodeReply(value);
  return reply.ok && reply.value.kind === "done" && reply.value.fields[0] === PROMOTED;
}

function outcomeOf(value: unknown): Outcome {
  const reply = decodeReply(value);
  if (!reply.ok) return failed(reply.error);
  if (reply.value.kind === "refused")
    return failed(new Error(`ff_promote_delayed refused: ${reply.value.code}`));
  // Otherwise it is promoted, or was no longer delayed: its entry was removed.
  return reply.value.fields[0] === "not_yet_due" ? KEPT : PROCESSED;
}
