import type { Pipelines } from "#shared/contract/command.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { pairResults } from "#shared/contract/results.ts";
import { markDepthLimit } from "#shared/dispatch/depth-limit.ts";
import type { CompletedExecution, DispatchResult } from "#shared/dispatch/types.ts";
import { PublishError } from "#shared/errors.ts";
import type { SendResult } from "#shared/queue/batch-sender.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";

/** Slows a cascade down that reaches the limit again and again. */
const RESTART_DELAY_SECONDS = 60;

export interface RestartPorts {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
  readonly publisher: CompletionPublisher;
  /** How long a restarted message is delayed, in seconds. Default: 60. */
  readonly restartDelaySeconds?: number;
  /** When `dispatch` must return: milliseconds since the epoch. */
  readonly deadlineMs: number;
}

/**
 * Publishes completions again at depth 0, delayed and one generation later: one result per completion. Every sender can
 * choose a depth, so the limit only delays a cascade and does not end it. A completion that the queue did not accept is
 * retried. If a delivery dies after the send, the redelivery sends the completion again, which changes nothing.
 */
export async function restartCascades(
  ports: RestartPorts,
  restarts: readonly CompletedExecution[],
): Promise<Map<CompletedExecution, DispatchResult>> {
  if (restarts.length === 0) return new Map();
  const { restartDelaySeconds: delaySeconds = RESTART_DELAY_SECONDS } = ports;
  const sent = await ports.publisher.send(
    restarts.map(({ executionId, flowId, generation, root, traceparent }) => ({
      executionId,
      flowId,
      // Dispatch does not keep the outcome of a message: the record has it.
      outcome: "",
      depth: 0,
      generation: generation + 1,
      root,
      delaySeconds,
      ...(traceparent === undefined ? {} : { traceparent }),
    })),
    ports.deadlineMs,
  );
  const noAnswer = ({ executionId }: CompletedExecution): SendResult => ({
    ok: false,
    error: new PublishError(`the publisher returned no result for ${executionId}`),
  });
  const results = pairResults(restarts, sent, noAnswer);
  await markDepthLimit(
    ports,
    "restarted",
    results.flatMap(({ item, result }) => (result.ok ? item : [])),
  );
  return new Map(
    results.map(({ item, result }): [CompletedExecution, DispatchResult] => [
      item,
      result.ok ? { kind: "stopped", gate: "depth_limit" } : { kind: "failed", errors: [result.error] },
    ]),
  );
}
