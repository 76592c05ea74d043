/** Sends completions of executions that have ended. */

import type { OperateContext } from "#operate/operation.ts";
import { type ExecutionId, type FlowId, parseFlowId } from "#shared/contract/ids.ts";
import { pairResults } from "#shared/contract/results.ts";
import { ConfigurationError, PublishError } from "#shared/errors.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";

export interface EndedExecution {
  readonly id: ExecutionId;
  readonly flowId: FlowId;
  readonly outcome: string;
}

/** Throws a ConfigurationError if no queue is configured. */
export function completionsOf({ completions }: OperateContext): CompletionPublisher {
  if (completions !== undefined) return completions;
  throw new ConfigurationError([
    "COMPLETIONS_QUEUE_URL is not set: the operation must send completions to the dispatch function",
  ]);
}

/** Sends the completion of each execution: one result per execution, in order. Never rejects because of one of them. */
export async function sendCompletions(
  context: OperateContext,
  ended: readonly EndedExecution[],
): Promise<SendResult[]> {
  if (ended.length === 0) return [];
  const answers = await completionsOf(context).send(
    ended.map(({ id, flowId, outcome }) => {
      // A message has the flow id in its canonical form; dispatch also finds edges under the record's spelling.
      const canonical = parseFlowId(flowId);
      return {
        executionId: id,
        flowId: canonical.ok ? canonical.value : flowId,
        outcome,
        depth: 0,
        root: id,
      };
    }),
    context.deadlineMs,
  );
  return pairResults(ended, answers, ({ id }) => ({
    ok: false as const,
    error: new PublishError(`the publisher returned no result for ${id}`),
  })).map(({ result }) => result);
}
