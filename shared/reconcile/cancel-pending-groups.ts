/** Cancels the siblings of decided groups that dispatch has left, and sends their completions. */

import {
  type CancelledSibling,
  cancelGroups,
  type GroupResult,
  type SiblingPublication,
} from "#shared/cancellation/cancel-groups.ts";
import type { DecidedGroup } from "#shared/cancellation/sibling-groups.ts";
import { command, type Pipelines } from "#shared/contract/command.ts";
import { type Parsed, parseExecutionId, parseStoredFlowId, partitionOf } from "#shared/contract/ids.ts";
import { parseTime } from "#shared/contract/record.ts";
import { pairResults } from "#shared/contract/results.ts";
import { isRecordError, OutOfTimeError, PublishError, ValkeyError } from "#shared/errors.ts";
import type { IndexEntry } from "#shared/reconcile/indexes.ts";
import { failed, KEPT, type Outcome, PROCESSED, pipelineEach } from "#shared/reconcile/outcome.ts";
import { isDue, parseMark } from "#shared/reconcile/resend-policy.ts";
import { SweepStopped, type TaskRun } from "#shared/reconcile/run.ts";
import { type MissedCompletion, markKey, sendCompletions } from "#shared/reconcile/send.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";

/** How long a group is claimed if the run has no deadline, in milliseconds. */
const CLAIM_TTL_MS = 60_000;

interface ListedGroup extends DecidedGroup {
  readonly entry: IndexEntry;
}

/** Cancels the siblings of groups: one outcome per entry, in their order. Throws SweepStopped if the lease is lost. */
export async function cancelPendingGroups(
  run: TaskRun,
  valkey: Pipelines,
  entries: readonly IndexEntry[],
): Promise<Outcome[]> {
  const listed = entries.map((entry) => ({ entry, group: listedGroup(run, entry) }));
  const malformed = listed.flatMap(({ entry, group }) => (group === undefined ? [entry] : []));
  const removals = await pipelineEach(valkey, malformed, ({ index: { partition }, member }) =>
    command(partition, "srem", run.ports.router.indexKeys(partition).pendingCancelGroups, member),
  );
  const outcomes = new Map<IndexEntry, Outcome>(
    removals.map(({ item, result }) => [item, result.ok ? PROCESSED : failed(result.error)]),
  );
  const groups = listed.flatMap(({ group }) => group ?? []);
  const { results, cancelled } = await cancelGroups(
    {
      valkey,
      router: run.ports.router,
      claimTtlMs: claimTtlMs(run),
      hasTime: () => hasTime(run),
      publish: (siblings) => publish(run, siblings),
    },
    groups,
  );
  run.count(METRICS.siblingsCancelled, cancelled);
  // The page is read again in the next run. What was finished is drained.
  if (results.some(isOutOfTime)) throw new SweepStopped("out_of_time");
  for (const { item, result } of pairResults(groups, results, noResult)) {
    outcomes.set(item.entry, outcomeOf(run, item, result));
  }
  return entries.map((entry) => outcomes.get(entry) ?? failed(new ValkeyError("a group has no outcome")));
}

/** The group of an entry `<flow id>|<child>`. Undefined, and reported, if a part does not parse. */
function listedGroup(run: TaskRun, entry: IndexEntry): ListedGroup | undefined {
  const { index, member } = entry;
  const at = member.indexOf("|");
  const flowId = parseStoredFlowId(member.slice(0, Math.max(0, at)));
  const child = parseExecutionId(member.slice(at + 1));
  if (flowId.ok && child.ok && partitionOf(child.value) === index.partition) {
    const { router } = run.ports;
    const flow = router.flowKeys(flowId.value, index.partition);
    return { entry, flow, index: router.indexKeys(index.partition), child: child.value };
  }
  const reason = [flowId, child].flatMap((part: Parsed<string>) => (part.ok ? [] : [part.error.message]));
  run.reportUnreadable("entry of pending_cancel_groups removed: not a group of its partition", {
    entry: member.slice(0, 200),
    reason: reason[0] ?? "the child belongs to another partition",
  });
  return undefined;
}

function claimTtlMs({ ports: { deadlineMs, now } }: TaskRun): number {
  const leftMs = Math.ceil(deadlineMs - now());
  return Number.isFinite(leftMs) ? Math.max(1, leftMs) : CLAIM_TTL_MS;
}

async function hasTime(run: TaskRun): Promise<boolean> {
  try {
    await run.beginStep();
    return true;
  } catch (error) {
    // The groups that are finished are still drained.
    if (error instanceof SweepStopped && error.reason === "out_of_time") return false;
    throw error;
  }
}

/**
 * Sends the completions of cancelled siblings. One that this call has cancelled is certainly not in the queue: it is sent at
 * once. For the others, a mark delays the next send, so that a completion is not sent in every run.
 */
async function publish(
  run: TaskRun,
  siblings: readonly CancelledSibling<ListedGroup>[],
): Promise<SiblingPublication[]> {
  const candidates = siblings.map(({ id, groups: [{ flow }], completedAt }): MissedCompletion => {
    const completion = { executionId: id, flowId: flow.id, outcome: "cancelled", depth: 0, root: id };
    return { completion, end: completedAt, endedAtMs: parseTime(completedAt), mark: undefined };
  });
  const marks = await pipelineEach(run.ports.valkey, candidates, ({ completion }) =>
    command(partitionOf(completion.executionId), "get", markKey(run, completion)),
  );
  const due = marks.flatMap(({ item, result }, position) => {
    const text = result.ok && typeof result.value === "string" ? result.value : "";
    const candidate: MissedCompletion = { ...item, mark: parseMark(text) };
    const isNew = siblings[position]?.isCancelledNow === true;
    return isNew || isDue(candidate, run.serverNowMs) ? [{ position, candidate }] : [];
  });
  const sent = await sendCompletions(
    run,
    due.map(({ candidate }) => candidate),
  );
  const publications = new Map(
    pairResults(due, sent, () => failed(new PublishError("no outcome"))).map(({ item, result }) => [
      item.position,
      publicationOf(result),
    ]),
  );
  run.count(METRICS.completionsSent, sent.filter(({ ok }) => ok).length);
  return siblings.map((_, position) => publications.get(position) ?? "not_due");
}

function isOutOfTime(result: GroupResult): boolean {
  return result.kind === "left" && result.reason instanceof OutOfTimeError;
}

function publicationOf(outcome: Outcome): SiblingPublication {
  if (outcome.ok) return "published";
  const { error } = outcome;
  // Not marked, so not sent.
  return error instanceof PublishError ? error : new PublishError(error.message, "refused");
}

function outcomeOf(run: TaskRun, { flow, child }: ListedGroup, result: GroupResult): Outcome {
  if (result.kind === "drained") return PROCESSED;
  if (result.kind === "in_progress" || result.reason === "not_due") return KEPT;
  const { reason } = result;
  // Logged and counted when it was sent.
  if (reason instanceof PublishError) return KEPT;
  const cause = reason.cause instanceof Error ? reason.cause : reason;
  // A group with a sibling that cannot be cancelled stays, and keeps no other entry from being processed.
  if (!isRecordError(cause) && reason.retryable && reason.code !== "invalid_record") return failed(reason);
  run.reportUnreadable("siblings of a decided group not cancelled", {
    flow_id: flow.id,
    execution_id: child,
    reason: reason.message,
  });
  return KEPT;
}

function noResult(): GroupResult {
  return { kind: "left", reason: new ValkeyError("the group has no result") };
}
