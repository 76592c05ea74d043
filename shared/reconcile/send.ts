/**
 * Sends completions to the queue, with a mark for each.
 *
 * The mark is written before the completion is sent. So a process that dies in between delays the completion by a minute,
 * and one that always dies after sending cannot send the same completion in every sweep. After a refusal, the mark is set
 * back: the completion was certainly not sent. After a lost answer, it stays.
 */

import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import { partitionOf } from "#shared/contract/ids.ts";
import type { Completion } from "#shared/contract/message.ts";
import { pairResults } from "#shared/contract/results.ts";
import { PublishError } from "#shared/errors.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import { failed, type Outcome, PROCESSED, pipelineEach } from "#shared/reconcile/outcome.ts";
import {
  formatMark,
  MARK_TTL_SECONDS,
  nextMark,
  type ResendCandidate,
} from "#shared/reconcile/resend-policy.ts";
import type { TaskRun } from "#shared/reconcile/run.ts";

export interface MissedCompletion extends ResendCandidate {
  readonly completion: Completion;
}

/**
 * Writes the next mark of each completion and sends it. Returns one outcome per completion, in their order. Those that are
 * not known to be sent are logged, and make the sweep incomplete.
 */
export async function sendMarked(run: TaskRun, missed: readonly MissedCompletion[]): Promise<Outcome[]> {
  const { outcomes, marked } = await mark(run, missed);
  const sent = await publish(run, marked);
  await unmark(
    run,
    sent.flatMap(({ item, result }) => (isRefused(result) ? [item] : [])),
  );
  for (const { item, result } of sent) {
    outcomes.set(item, result.ok ? PROCESSED : result);
    if (!result.ok) run.warn("completion not sent, will retry", { reason: result.error.message });
  }
  return missed.map((item) => {
    const outcome = outcomes.get(item) ?? failed(noResult().error);
    if (!outcome.ok) run.unsent += 1;
    return outcome;
  });
}

/** Those that cannot be marked are not sent. */
async function mark(
  run: TaskRun,
  missed: readonly MissedCompletion[],
): Promise<{ readonly outcomes: Map<MissedCompletion, Outcome>; readonly marked: MissedCompletion[] }> {
  const nowMs = run.serverNowMs;
  const results = await pipelineEach(run.ports.valkey, missed, (item) =>
    setMark(run, item, formatMark(nextMark(item, nowMs))),
  );
  const outcomes = new Map<MissedCompletion, Outcome>();
  const marked = results.flatMap(({ item, result }) => {
    if (result.ok) return [item];
    run.warn("completion not marked and not sent, will retry", { reason: result.error.message });
    outcomes.set(item, result);
    return [];
  });
  return { outcomes, marked };
}

/** Restores the marks of completions that were certainly not sent. If that fails, they are late by their delay. */
async function unmark(run: TaskRun, refused: readonly MissedCompletion[]): Promise<void> {
  await pipelineEach(run.ports.valkey, refused, (item) =>
    item.mark === undefined
      ? command(partitionOf(item.completion.executionId), "del", markKey(run, item.completion))
      : setMark(run, item, formatMark(item.mark)),
  );
}

function setMark(run: TaskRun, item: MissedCompletion, text: string): ValkeyCommand {
  return command(
    partitionOf(item.completion.executionId),
    "set",
    markKey(run, item.completion),
    text,
    "EX",
    MARK_TTL_SECONDS,
  );
}

/** Returns one result per completion. */
async function publish(
  { ports: { publisher, deadlineMs } }: TaskRun,
  marked: readonly MissedCompletion[],
): Promise<{ readonly item: MissedCompletion; readonly result: SendResult }[]> {
  if (marked.length === 0) return [];
  const answer = await publisher.send(
    marked.map(({ completion }) => completion),
    deadlineMs,
  );
  // With another number of results, their positions mean nothing: no completion is known to be sent.
  return pairResults(marked, answer.length === marked.length ? answer : [], noResult);
}

/** The key of the mark of a completion. */
export function markKey({ ports: { router } }: TaskRun, { executionId, flowId }: Completion): string {
  return router.execKeys(executionId).resent(flowId);
}

function isRefused(result: SendResult): boolean {
  return !result.ok && result.error.outcome === "refused";
}

function noResult(): Extract<SendResult, { ok: false }> {
  return { ok: false, error: new PublishError("the publisher returned no result for a completion") };
}
