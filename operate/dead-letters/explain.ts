/** What `explain` says about the executions of dead letters. */

import { type Explanation, explain } from "#operate/explain/explain.ts";
import type { OperateContext } from "#operate/operation.ts";
import { type ExecutionId, parseExecutionId, parseFlowId } from "#shared/contract/ids.ts";
import { parseJsonObject } from "#shared/contract/message.ts";
import { ValkeyError } from "#shared/errors.ts";
import type { DeadLetter } from "#shared/redrive/message.ts";

/** Executions that are explained at the same time. */
const AT_ONCE = 8;
/** No explanation begins with less time until the deadline, in milliseconds. */
const MIN_TIME_MS = 5_000;

/** The execution that a message is about; undefined if it names no valid one. */
export function executionOf({ body }: DeadLetter): ExecutionId | undefined {
  const parsed = parseExecutionId(parseJsonObject(body)?.execution_id);
  return parsed.ok ? parsed.value : undefined;
}

/**
 * Explains the executions of the first `limit` different ones among the messages. An execution that cannot be read, or for which
 * the time is too short, has no explanation.
 */
export async function explainLetters(
  context: OperateContext,
  letters: readonly DeadLetter[],
  limit: number,
): Promise<ReadonlyMap<ExecutionId, Explanation>> {
  // It would look for the message that is shown here, and receive it again.
  const { deadLetters: _, ...queues } = context.queues;
  const withoutQueue = { ...context, queues };
  const wanted = new Map<ExecutionId, unknown>();
  for (const letter of letters) {
    const id = executionOf(letter);
    if (id !== undefined && wanted.size < limit) wanted.set(id, parseJsonObject(letter.body)?.flow_id);
  }
  const explanations = new Map<ExecutionId, Explanation>();
  const queue = wanted.entries();
  const lines = Array.from({ length: AT_ONCE }, async () => {
    for (const [id, flow] of queue) {
      if (context.deadlineMs - Date.now() < MIN_TIME_MS) return;
      const flowId = parseFlowId(flow);
      try {
        const request = { id, flowId: flowId.ok ? flowId.value : undefined, edges: 1 };
        explanations.set(id, await explain(withoutQueue, request));
      } catch (error) {
        // The message is worth showing without it: the node of the execution may be what is down.
        if (!(error instanceof ValkeyError)) throw error;
      }
    }
  });
  await Promise.all(lines);
  return explanations;
}
