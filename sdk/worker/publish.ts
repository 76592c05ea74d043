import type { WorkerClient } from "#sdk/worker/leasing.ts";
import { DEFAULT_RETRY_DELAYS_MS, retryFailed } from "#sdk/worker/retry.ts";
import { command } from "#shared/contract/command.ts";
import { parseFlowId } from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import type { Completion } from "#shared/contract/message.ts";
import { fieldText, type TerminalOutcome } from "#shared/contract/record.ts";
import { InvalidRecordError, messageOf, PublishError, ValkeyError } from "#shared/errors.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { noResult } from "#shared/valkey/batches.ts";

export interface EndedExecution {
  readonly keys: ExecKeys;
  readonly outcome: TerminalOutcome;
}

type Prepared =
  | { readonly ok: true; readonly completion?: Completion }
  | { readonly ok: false; readonly error: Error };

/**
 * Delays before a completion is published again. They are short because a publisher retries too, and because the
 * reconciler recovers a completion that was never sent.
 */
const PUBLISH_RETRY_DELAYS_MS: readonly number[] = [100, 400];

/**
 * Publishes the completions of ended executions. The flow id is read now and not at the claim: an execution can be
 * claimed before its submitter adds it to the flow. Returns the errors of those that were not published.
 */
export async function publishCompletions(
  {
    valkey,
    completions,
    retryDelaysMs = DEFAULT_RETRY_DELAYS_MS,
  }: Pick<WorkerClient, "valkey" | "retryDelaysMs"> & { readonly completions: CompletionPublisher },
  ended: readonly EndedExecution[],
): Promise<Error[]> {
  const flowIds = await retryFailed(
    ended,
    retryDelaysMs,
    (open) => valkey.pipelined(open.map(({ keys }) => command(keys.partition, "hget", keys.core, "flow_id"))),
    noResult,
  );
  const prepared = flowIds.map(
    ({ item, result }): Prepared =>
      result.ok
        ? completionOf(item, fieldText(result.value))
        : { ok: false, error: new ValkeyError(messageOf(result.error), { cause: result.error }) },
  );
  const sent = await retryFailed<Completion, SendResult>(
    prepared.flatMap((one) => (one.ok && one.completion !== undefined ? [one.completion] : [])),
    PUBLISH_RETRY_DELAYS_MS,
    (unsent) => completions.send(unsent),
    () => ({ ok: false, error: new PublishError("the publisher returned no result for a completion") }),
  );
  return [...prepared, ...sent.map(({ result }) => result)].flatMap((result) =>
    result.ok ? [] : [result.error],
  );
}

/** No completion if the execution belongs to no flow. */
function completionOf({ keys: { id }, outcome }: EndedExecution, flowId: string): Prepared {
  if (flowId === "") return { ok: true };
  const parsed = parseFlowId(flowId);
  if (parsed.ok) {
    return { ok: true, completion: { executionId: id, flowId: parsed.value, outcome, depth: 0, root: id } };
  }
  return { ok: false, error: new InvalidRecordError(`the record of ${id}: ${parsed.error.message}`) };
}
