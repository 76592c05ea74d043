/**
 * Sends completions and ready messages again, with a mark for each.
 *
 * The mark is written before the message is sent. So a process that dies in between delays the message by a minute, and one
 * that always dies after sending cannot send the same message in every sweep. After a refusal, the mark is set back: the
 * message was certainly not sent. After a lost answer, it stays.
 */

import { command, type ValkeyCommand } from "#shared/contract/command.ts";
import { type Partition, partitionOf } from "#shared/contract/ids.ts";
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

/** How messages of one kind are marked and sent. */
export interface MarkedMessages<T extends ResendCandidate> {
  /** Names the kind in logs. */
  readonly kind: string;
  /** The key of the mark of a message. */
  readonly markOf: (item: T) => { readonly partition: Partition; readonly key: string };
  /** Returns one result per message, in order. */
  readonly publish: (items: readonly T[]) => Promise<SendResult[]>;
}

/** As `sendMarked`, for completions. */
export function sendCompletions(run: TaskRun, missed: readonly MissedCompletion[]): Promise<Outcome[]> {
  const { publisher, deadlineMs } = run.ports;
  const messages: MarkedMessages<MissedCompletion> = {
    kind: "completion",
    markOf: ({ completion }) => ({
      partition: partitionOf(completion.executionId),
      key: markKey(run, completion),
    }),
    publish: (items) =>
      publisher.send(
        items.map(({ completion }) => completion),
        deadlineMs,
      ),
  };
  return sendMarked(run, messages, missed);
}

/**
 * Writes the next mark of each message and sends it. Returns one outcome per message, in their order. Those that are not
 * known to be sent are logged, and make the sweep incomplete.
 */
export async function sendMarked<T extends ResendCandidate>(
  run: TaskRun,
  messages: MarkedMessages<T>,
  missed: readonly T[],
): Promise<Outcome[]> {
  const { outcomes, marked } = await mark(run, messages, missed);
  const sent = await publish(messages, marked);
  await unmark(
    run,
    messages,
    sent.flatMap(({ item, result }) => (isRefused(result) ? [item] : [])),
  );
  for (const { item, result } of sent) {
    outcomes.set(item, result.ok ? PROCESSED : result);
    if (!result.ok) run.warn(`${messages.kind} not sent, will retry`, { reason: result.error.message });
  }
  return missed.map((item) => {
    const outcome = outcomes.get(item) ?? failed(noResult().error);
    if (!outcome.ok) run.unsent += 1;
    return outcome;
  });
}

/** Those that cannot be marked are not sent. */
async function mark<T extends ResendCandidate>(
  run: TaskRun,
  messages: MarkedMessages<T>,
  missed: readonly T[],
): Promise<{ readonly outcomes: Map<T, Outcome>; readonly marked: T[] }> {
  const nowMs = run.serverNowMs;
  const results = await pipelineEach(run.ports.valkey, missed, (item) =>
    setMark(messages, item, formatMark(nextMark(item, nowMs))),
  );
  const outcomes = new Map<T, Outcome>();
  const marked = results.flatMap(({ item, result }) => {
    if (result.ok) return [item];
    run.warn(`${messages.kind} not marked and not sent, will retry`, { reason: result.error.message });
    outcomes.set(item, result);
    return [];
  });
  return { outcomes, marked };
}

/** Restores the marks of messages that were certainly not sent. If that fails, they are late by their delay. */
async function unmark<T extends ResendCandidate>(
  run: TaskRun,
  messages: MarkedMessages<T>,
  refused: readonly T[],
): Promise<void> {
  await pipelineEach(run.ports.valkey, refused, (item) => {
    const { partition, key } = messages.markOf(item);
    return item.mark === undefined
      ? command(partition, "del", key)
      : setMark(messages, item, formatMark(item.mark));
  });
}

function setMark<T extends ResendCandidate>(
  messages: MarkedMessages<T>,
  item: T,
  text: string,
): ValkeyCommand {
  const { partition, key } = messages.markOf(item);
  return command(partition, "set", key, text, "EX", MARK_TTL_SECONDS);
}

/** Returns one result per message. */
async function publish<T extends ResendCandidate>(
  messages: MarkedMessages<T>,
  marked: readonly T[],
): Promise<{ readonly item: T; readonly result: SendResult }[]> {
  if (marked.length === 0) return [];
  const answer = await messages.publish(marked);
  // With another number of results, their positions mean nothing: no message is known to be sent.
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
  return { ok: false, error: new PublishError("the publisher returned no result for a message") };
}
