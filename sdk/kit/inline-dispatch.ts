import type { Pipelines } from "#shared/contract/command.ts";
import type { CompletionEvent } from "#shared/contract/message.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { dispatch } from "#shared/dispatch/dispatcher.ts";
import type { DispatchResult } from "#shared/dispatch/types.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import type { ReadyPublisher } from "#shared/ready/publisher.ts";
import type { Telemetry } from "#shared/runtime/telemetry.ts";

export interface InlineDispatchPorts {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
  readonly publisher: CompletionPublisher;
  readonly ready: ReadyPublisher | undefined;
  readonly telemetry: Telemetry;
  readonly ensureLibrary: () => Promise<void>;
  readonly now: () => number;
}

/** A worker dispatches only executions that it has ended itself: their depth is 0, far below any limit. */
const MAX_CASCADE_DEPTH = 50;
const RESTART_DELAY_SECONDS = 60;

/**
 * Returns the dispatcher of the dispatch function, for use in the process of a worker. It publishes skipped children to the
 * completions queue, from where the dispatch function continues the cascade.
 */
export function inlineDispatch(
  ports: InlineDispatchPorts,
): (events: readonly CompletionEvent[], deadlineMs: number) => Promise<DispatchResult[]> {
  return (events, deadlineMs) =>
    dispatch(
      {
        ...ports,
        deadlineMs,
        maxCascadeDepth: MAX_CASCADE_DEPTH,
        restartDelaySeconds: RESTART_DELAY_SECONDS,
      },
      events,
    );
}
