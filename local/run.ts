import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { type FlowStatus, FlowStatusCounter, type TaskState } from "#local/flow-status.ts";
import { IdleReconciler } from "#local/idle-reconciler.ts";
import type { Stack } from "#local/stack.ts";
import { Workers } from "#local/workers.ts";
import type { WorkflowRun } from "#local/workflow-file.ts";
import { type Submission, submitFlow } from "#sdk/submission/submit.ts";
import type { RunOutcome } from "#sdk/worker/finish.ts";
import type { Execution, ExecutionHandler } from "#sdk/worker/worker.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import { type FlowId, type LaneId, parseFlowId, unwrap } from "#shared/contract/ids.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";

export interface RunProgress {
  readonly phase: "submitting" | "running";
  readonly tasks: number;
  /** While submitting: executions submitted. While running: executions that have ended. */
  readonly done: number;
  readonly failed: number;
  readonly skipped: number;
  readonly messages: number;
}

/** A submitted flow, and how its executions run. */
export interface FlowToRun {
  readonly submission: Submission;
  /** The lanes of its executions. */
  readonly lanes: readonly LaneId[];
  readonly run: ExecutionHandler;
}

/** A flow that has ended, or that makes no progress any more. */
export interface FlowRun {
  readonly status: FlowStatus;
  /** By task id. */
  readonly taskStates: ReadonlyMap<string, TaskState>;
  readonly unfinished: number;
  /** Messages that the queue moved to its dead-letter queue. */
  readonly deadLetters: number;
}

export interface RunResult extends FlowRun {
  readonly flowId: FlowId;
  readonly submission: Submission;
  /** From the start of the submission until the run is over. */
  readonly seconds: number;
}

const WORKERS = 3;
const TICK_MS = 100;
/**
 * The flow counts as idle after this time without any change. It is longer than the reconciler's grace period, so a
 * sweep that then finds no missed completion would not find one later.
 */
const IDLE_MS = 1_500;
/** The same while an execution is active. Its worker may have failed to end it, and this stack reclaims no leases. */
const LOST_LEASE_MS = 10_000;
/** The run gives up after this time without any change, even with messages in flight. */
const STUCK_MS = 60_000;

/** Submits a workflow and runs it with simulated tasks, as `runFlow` does. */
export async function runWorkflow(
  stack: Stack,
  router: PartitionRouter,
  { workflow, failing }: WorkflowRun,
  signal: AbortSignal,
  events: { onProgress: (progress: RunProgress) => void; onError: (error: string) => void },
): Promise<RunResult> {
  const startedAt = performance.now();
  const flowId = unwrap(parseFlowId(randomUUID()));
  const tasks = workflow.tasks.length;
  const submission = await submitFlow(
    { ...stack, valkey: abortable(signal, stack.valkey), router },
    workflow,
    {
      flowId,
      onProgress: ({ executions }) => {
        events.onProgress({
          phase: "submitting",
          tasks,
          done: executions,
          failed: 0,
          skipped: 0,
          messages: 0,
        });
      },
    },
  );
  signal.throwIfAborted();
  const run: ExecutionHandler = (execution) => Promise.resolve(simulate(execution, submission, failing));
  const lanes = [...new Set(workflow.tasks.map(({ lane }) => lane))];
  const ended = await runFlow(stack, router, { submission, lanes, run }, signal, events);
  return { ...ended, flowId, submission, seconds: Math.round(performance.now() - startedAt) / 1_000 };
}

/**
 * Runs a submitted flow. Resolves when every execution has ended and the queue is empty, or when the flow is idle and the
 * reconciler finds nothing to repair. Rejects with the signal's reason when the signal aborts.
 */
export async function runFlow(
  stack: Stack,
  router: PartitionRouter,
  { submission, lanes, run }: FlowToRun,
  signal: AbortSignal,
  events: { onProgress: (progress: RunProgress) => void; onError: (error: string) => void },
): Promise<FlowRun> {
  const tasks = submission.taskCount;
  const workers = new Workers({
    ...stack,
    router,
    partition: submission.partition,
    lanes,
    count: WORKERS,
    run,
    onError: events.onError,
  });
  workers.start();
  try {
    const statusCounter = new FlowStatusCounter(stack.valkey, router, submission.tasks.keys());
    const idleReconciler = new IdleReconciler(stack.reconcile, events.onError);
    const status = await waitUntilOver(stack, workers, statusCounter, idleReconciler, signal, ({ ended }) => {
      const done = tasks - statusCounter.unfinished;
      const { messages } = stack.poller.counts;
      events.onProgress({
        phase: "running",
        tasks,
        done,
        failed: ended.failed,
        skipped: ended.skipped,
        messages,
      });
    });
    const { visible } = await stack.queue.counts(stack.queue.deadLetterQueueUrl);
    return {
      status,
      taskStates: new Map(
        [...statusCounter.states].map(([id, state]) => [submission.tasks.get(id) ?? id, state] as const),
      ),
      unfinished: statusCounter.unfinished,
      deadLetters: visible,
    };
  } finally {
    await workers.stop();
  }
}

/** Pipelines that fail once the signal aborts, so that a large submission does not delay the shutdown. */
function abortable(signal: AbortSignal, valkey: Pipelines): Pipelines {
  return {
    pipelined: (commands) =>
      signal.aborted
        ? Promise.resolve(commands.map(() => ({ ok: false, error: new Error("stopped") })))
        : valkey.pipelined(commands),
  };
}

/** The outcome of a task. A real worker would do the task's work here. */
function simulate({ id }: Execution, { tasks }: Submission, failing: ReadonlySet<string>): RunOutcome {
  const task = tasks.get(id) ?? id;
  return failing.has(task)
    ? { outcome: "failed", reason: `${task} fails as requested` }
    : { outcome: "success", result: JSON.stringify({ task }) };
}

/**
 * Counts until all executions have ended and the queue is empty, or until the flow is idle and a complete sweep of the
 * reconciler has found nothing. The flow must stay idle for a while: a worker may have ended an execution whose
 * completion has not reached the queue yet.
 */
async function waitUntilOver(
  stack: Stack,
  workers: Workers,
  statusCounter: FlowStatusCounter,
  idleReconciler: IdleReconciler,
  signal: AbortSignal,
  onStatus: (status: FlowStatus) => void,
): Promise<FlowStatus> {
  let seen = "";
  let changedAt = performance.now();
  for (;;) {
    const status = await statusCounter.take();
    const counts = await stack.queue.counts(stack.queue.queueUrl);
    signal.throwIfAborted();
    onStatus(status);
    const isQueueEmpty = counts.visible + counts.inFlight + counts.delayed === 0;
    const isQuiet = isQueueEmpty && !workers.isBusy;
    if (statusCounter.unfinished === 0 && isQuiet) return status;
    const state = JSON.stringify([status, stack.poller.counts]);
    if (state !== seen) {
      seen = state;
      changedAt = performance.now();
    }
    // A retry is scheduled: waiting for it does not count as idle, however late it is.
    if (status.delayed > 0) changedAt = performance.now();
    const unchangedMs = performance.now() - changedAt;
    const isIdle = isQueueEmpty && status.ready === 0;
    const idleMs = status.active === 0 ? IDLE_MS : LOST_LEASE_MS;
    if (unchangedMs > STUCK_MS) return status;
    if (isIdle && unchangedMs > idleMs) {
      if (!(await idleReconciler.run(status))) return status;
      // The effect of its repairs may not be visible at once.
      changedAt = performance.now();
    }
    await sleep(TICK_MS, undefined, { signal });
  }
}
