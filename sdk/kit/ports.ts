import type { AnyTask } from "#sdk/kit/define-task.ts";
import type { InlineDispatch } from "#sdk/kit/inline-dispatch.ts";
import type { TaskMiddleware } from "#sdk/kit/middleware.ts";
import type { ClaimedExecution } from "#sdk/worker/claim.ts";
import type { WorkerClient } from "#sdk/worker/leasing.ts";
import type { ExecutionId, FlowId } from "#shared/contract/ids.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import type { ReadyPublisher } from "#shared/ready/publisher.ts";
import type { Log } from "#shared/runtime/telemetry.ts";

/** What a worker needs to run tasks. */
export interface WorkerPorts extends WorkerClient {
  readonly router: PartitionRouter;
  readonly completions: CompletionPublisher;
  /** Undefined: no lane has a ready queue. */
  readonly ready: ReadyPublisher | undefined;
  /**
   * Updates the children of ended executions in this process. Undefined: the dispatch function does it, and the worker sends it
   * the completions.
   */
  readonly dispatch: InlineDispatch | undefined;
  /** Around each run. Default: none. */
  readonly middleware?: readonly TaskMiddleware[] | undefined;
  /** How long leases last, in milliseconds. Default: 60,000. */
  readonly leaseTtlMs?: number;
  readonly log: Log;
  readonly metrics: TaskMetrics;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
}

/** Counts and measures runs, by the kind and lane of their task. */
export interface TaskMetrics {
  /** A run has ended. */
  ran(task: AnyTask, run: MeasuredRun): void;
  /** A message named an execution that this worker has no task for. */
  unknownKind(lane: string, kind: string): void;
}

/** One run of a task, as a worker measured it. */
export interface MeasuredRun {
  readonly outcome: "success" | "failed" | "lease_lost";
  readonly runMs: number;
  /** From the time when the ready message was sent until the claim. Undefined for polled executions. */
  readonly queueWaitMs: number | undefined;
  /** 1 for the first attempt. */
  readonly attempt: number;
  /** Whether another worker had lost the execution before. */
  readonly isReclaim: boolean;
}

/** An execution that this worker holds, and the task that runs it. */
export interface ClaimedTask extends ClaimedExecution {
  readonly task: AnyTask;
  readonly flowId: FlowId | undefined;
  readonly replayCount: number;
  readonly isReclaim: boolean;
  /** The root and the trace of the completion that made the execution eligible. */
  readonly root: ExecutionId;
  readonly traceparent: string | undefined;
  readonly queueWaitMs: number | undefined;
  /** A time of `performance.now()` before the claim was sent. */
  readonly claimedAt: number;
}
