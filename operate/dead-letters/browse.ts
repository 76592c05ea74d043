/**
 * Looks at dead letters. SQS shows a message only to who receives it. So this receives messages, which hides them for up to a
 * minute, and makes them visible again as soon as it has seen enough. It increases their receive counts, which nothing acts on:
 * a dead-letter queue has no redrive policy of its own.
 */

import type { OperateContext } from "#operate/operation.ts";
import { ConfigurationError } from "#shared/errors.ts";
import { type QueueCounts, readQueueCounts } from "#shared/queue/backlog.ts";
import { type Filter, matches } from "#shared/redrive/filter.ts";
import type { DeadLetter } from "#shared/redrive/message.ts";
import { DeadLetterQueue } from "#shared/redrive/queue.ts";

const RECEIVE_OPTIONS = { visibilitySeconds: 60, waitSeconds: 1 };
/** Messages that are received before it ends, so that none is hidden for longer than its visibility timeout. Milliseconds. */
const BROWSE_MS = 20_000;
/** Concurrent requests. */
const REQUESTS = 5;
/** Messages that are looked at. */
const MAX_SEEN = 5_000;
/** After this many rounds with known messages only, the queue counts as read. */
const IDLE_ROUNDS = 2;

export interface Browsed {
  /** The selected messages, the oldest first. */
  readonly letters: readonly DeadLetter[];
  readonly seen: number;
  /** Whether every message of the queue was seen, but those that others hide. */
  readonly isComplete: boolean;
  /** Of the whole queue, as SQS counts, before anything was received. */
  readonly counts: QueueCounts;
}

/** Finds up to `limit` dead letters. Throws a ConfigurationError without a queue, and a QueueError if SQS does not answer. */
export async function browse(
  { sqs, queues: { deadLetters: url }, deadlineMs }: OperateContext,
  filter: Filter,
  limit: number,
): Promise<Browsed> {
  if (url === undefined) {
    throw new ConfigurationError([
      "DEAD_LETTER_QUEUE_URL is not set: expected the URL of the dead-letter queue, as in the environment of the function redrive",
    ]);
  }
  const counts = await readQueueCounts(sqs, url);
  const queue = new DeadLetterQueue(sqs, url, RECEIVE_OPTIONS);
  const startedAt = Date.now();
  const endsAt = Math.min(startedAt + BROWSE_MS, deadlineMs - 2_000 * RECEIVE_OPTIONS.waitSeconds);
  const seen = new Map<string, DeadLetter>();
  const letters = new Map<string, DeadLetter>();
  let isComplete = false;
  try {
    let idleRounds = 0;
    while (letters.size < limit && seen.size < MAX_SEEN && Date.now() < endsAt) {
      const received = await queue.receive(REQUESTS, RECEIVE_OPTIONS.waitSeconds * 1_000);
      const isNew = received?.some(({ id }) => !seen.has(id)) ?? false;
      for (const letter of received ?? []) {
        seen.set(letter.id, letter);
        if (matches(filter, letter, startedAt)) letters.set(letter.id, letter);
      }
      idleRounds = isNew ? 0 : idleRounds + 1;
      isComplete = received?.length === 0 || idleRounds === IDLE_ROUNDS;
      if (isComplete || filter.messageIds?.every((id) => letters.has(id)) === true) break;
    }
  } finally {
    await queue.makeVisible([...seen.values()].map(({ handle }) => handle));
  }
  const oldestFirst = [...letters.values()].sort((left, right) => (left.sentAt ?? 0) - (right.sentAt ?? 0));
  return { letters: oldestFirst.slice(0, limit), seen: seen.size, isComplete, counts };
}
