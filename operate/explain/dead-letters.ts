/**
 * Looks for completions in the dead-letter queue. SQS has no way to read a message without receiving it. So this does the least
 * that a receive can do: it hides the messages that it looks at for 30 s at most, makes them visible again as soon as it has
 * read them, and increases their receive count, which no redrive policy of a dead-letter queue acts on.
 */

import type { ExplainContext } from "#operate/explain/read.ts";
import { hasTime } from "#operate/explain/read.ts";
import { parseExecutionId } from "#shared/contract/ids.ts";
import { parseJsonObject } from "#shared/contract/message.ts";
import { type DeadLetter, flowIdOf } from "#shared/redrive/message.ts";
import { DeadLetterQueue } from "#shared/redrive/queue.ts";

/** More messages are not looked at: the answer says so. */
const MAX_DEAD_LETTERS = 1_000;
const RECEIVE_OPTIONS = { visibilitySeconds: 30, waitSeconds: 1 };
/** Concurrent receives of up to ten messages. */
const REQUESTS = 4;

/** A dead letter about one of the executions, or about their flow without naming an execution. */
export interface FoundLetter {
  readonly messageId: string;
  /** Undefined: the message names no valid execution. */
  readonly executionId: string | undefined;
  /** Undefined: the redrive policy moved it, after too many failed deliveries. */
  readonly errorCode: string | undefined;
  readonly errorMessage: string;
  readonly sentAtMs: number | undefined;
}

export interface DeadLetterSearch {
  readonly found: readonly FoundLetter[];
  readonly seen: number;
  /** False: the queue has more messages than were looked at. */
  readonly isComplete: boolean;
}

/**
 * Finds the dead letters of executions. Undefined if the environment names no dead-letter queue.
 *
 * @throws QueueError if SQS does not answer or refuses.
 */
export async function findDeadLetters(
  context: ExplainContext,
  executions: ReadonlySet<string>,
  flowId: string | undefined,
): Promise<DeadLetterSearch | undefined> {
  const { deadLetters: url } = context.queues;
  if (url === undefined) return undefined;
  const queue = new DeadLetterQueue(context.sqs, url, RECEIVE_OPTIONS);
  const letters = new Map<string, DeadLetter>();
  let isComplete = false;
  try {
    while (letters.size < MAX_DEAD_LETTERS && hasTime(context)) {
      const received = await queue.receive(REQUESTS, RECEIVE_OPTIONS.waitSeconds * 1_000);
      if (received === undefined) break;
      const fresh = received.filter(({ id }) => !letters.has(id));
      for (const letter of received) letters.set(letter.id, letter);
      isComplete = fresh.length === 0;
      if (isComplete) break;
    }
  } finally {
    await queue.makeVisible([...letters.values()].map(({ handle }) => handle));
  }
  const found = [...letters.values()].flatMap((letter) => matchOf(letter, executions, flowId) ?? []);
  return { found, seen: letters.size, isComplete };
}

function matchOf(
  letter: DeadLetter,
  executions: ReadonlySet<string>,
  flowId: string | undefined,
): FoundLetter | undefined {
  const named = parseExecutionId(parseJsonObject(letter.body)?.execution_id);
  const isOfFlow =
    flowId !== undefined && (letter.group === flowId || flowIdOf(letter)?.toLowerCase() === flowId);
  if (named.ok ? !executions.has(named.value) : !isOfFlow) return undefined;
  return {
    messageId: letter.id,
    executionId: named.ok ? named.value : undefined,
    errorCode: letter.errorCode,
    errorMessage: letter.attributes.error_message?.StringValue ?? "",
    sentAtMs: letter.sentAt,
  };
}
