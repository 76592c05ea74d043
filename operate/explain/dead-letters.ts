/** Looks for completions in the dead-letter queue. `browse` says what that does to the queue. */

import { browse } from "#operate/dead-letters/browse.ts";
import type { ExplainContext } from "#operate/explain/read.ts";
import { parseExecutionId } from "#shared/contract/ids.ts";
import { parseJsonObject } from "#shared/contract/message.ts";
import type { Filter } from "#shared/redrive/filter.ts";
import { type DeadLetter, flowIdOf } from "#shared/redrive/message.ts";

/** More messages are not looked at: the answer says so. */
const MAX_DEAD_LETTERS = 1_000;
const ALL: Filter = {
  errorCodes: undefined,
  flow: undefined,
  olderThanSeconds: undefined,
  youngerThanSeconds: undefined,
};

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
  if (context.queues.deadLetters === undefined) return undefined;
  // Not by flow: a message that is no JSON names none, and only its message group tells.
  const { letters, seen, isComplete } = await browse(context, ALL, MAX_DEAD_LETTERS);
  return { found: letters.flatMap((letter) => matchOf(letter, executions, flowId) ?? []), seen, isComplete };
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
