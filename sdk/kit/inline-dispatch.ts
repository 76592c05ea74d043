import type { Pipelines } from "#shared/contract/command.ts";
import type { ExecutionId } from "#shared/contract/ids.ts";
import type { CompletionEvent } from "#shared/contract/message.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import { dispatch } from "#shared/dispatch/dispatcher.ts";
import { type RecordState, readRecords } from "#shared/dispatch/records.ts";
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

/** Updates the children of ended executions in the process of a worker. */
export interface InlineDispatch {
  /**
   * Reads how executions have ended, and their outgoing edges. Sent behind the calls that end them, it shares their round trip:
   * commands of one connection run in order.
   */
  read(events: readonly CompletionEvent[]): Promise<ReadonlyMap<ExecutionId, RecordState>>;
  /** Updates the children: one result per event, in order. `readBefore`: states that need not be read again. */
  dispatch(
    events: readonly CompletionEvent[],
    readBefore: ReadonlyMap<ExecutionId, RecordState>,
    deadlineMs: number,
  ): Promise<DispatchResult[]>;
}

/**
 * Returns the dispatcher of the dispatch function, for use in the process of a worker. It publishes skipped children to the
 * completions queue, from where the dispatch function continues the cascade.
 */
export function inlineDispatch(ports: InlineDispatchPorts): InlineDispatch {
  return {
    read: async (events) => {
      const executions = events.flatMap((event) =>
        event.flowId === undefined ? [] : [{ ...event, flowId: event.flowId }],
      );
      const states = await readRecords(ports, executions);
      return new Map(
        executions.flatMap(({ executionId }, at) => {
          const state = states[at];
          return state === undefined ? [] : [[executionId, state] as const];
        }),
      );
    },
    dispatch: (events, readBefore, deadlineMs) =>
      dispatch(
        {
          ...ports,
          readBefore,
          deadlineMs,
          maxCascadeDepth: MAX_CASCADE_DEPTH,
          restartDelaySeconds: RESTART_DELAY_SECONDS,
        },
        events,
      ),
  };
}
