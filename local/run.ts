import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { type FlowStatus, FlowStatusCounter } from "#local/flow-status.ts";
import { IdleReconciler } from "#local/idle-reconciler.ts";
import type { Stack } from "#local/stack.ts";
import { Workers } from "#local/workers.ts";
import type { Assignment } from "#local/workflow-file.ts";
import { type Submission, submitFlow } from "#sdk/submission/submit.ts";
import type { RunOutcome } from "#sdk/worker/finish.ts";
import type { Execution } from "#sdk/worker/worker.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import { type FlowId, parseFlowId, unwrap } from "#shared/contract/ids.ts";
import { LANES_KEY } from "#shared/contract/keys.ts";
import type { PartitionRouter } from "#shared/contract/partitions.ts";

export interface RunProgress {
  readonly phase: "submitting" | "running";
  readonly tasks: number;
  /** Executions submitted, or ended. */
  readonly done: number;
  readonly failed: number;
  readonly skipped: number;
  readonly messages: number;
}

export interface RunResult {
  readonly flowId: FlowId;
  readonly submission: Submission;
  readonly status: FlowStatus;
  readonly unfinished: number;
  /** Messages that the queue gave up. */
  readonly deadLetters: number;
  /** From the first call of the submission to the last end. */
  readonly seconds: number;
}

const WORKERS = 3;
const TICK_MS = 100;
/**
 * Nothing under way anywhere for so long means that nothing will happen by itself. Longer than the reconciler's grace:
 * what it does not find then, it will not find later either.
 */
const STILL_MS = 1_500;
/** Nothing is under way but a lease whose holder failed to end it: nobody here takes such a lease away. */
const LOST_LEASE_MS = 10_000;
/** Something is under way, and yet nothing has changed for so long. */
const STUCK_MS = 60_000;

/**
 * Submits a workflow and has it worked off. Returns when every execution has ended and the queue is empty, or when
 * nothing moves any more and the reconciler finds nothing to set in motion. Rejects with the signal's reason when that aborts.
 */
export async function runWorkflow(
  stack: Stack,
  router: PartitionRouter,
  { workflow, failing }: Assignment,
  signal: AbortSignal,
  events: { onProgress: (progress: RunProgress) => void; onError: (fault: string) => void },
): Promise<RunResult> {
  const startedAt = performance.now();
  const flowId = unwrap(parseFlowId(randomUUID()));
  const tasks = workflow.tasks.length;
  const lanes = [...new Set(workflow.tasks.map(({ lane }) => lane))];
  await stack.valkey.call("sadd", LANES_KEY, ...lanes);
  const submission = await submitFlow({ ...stack, valkey: until(signal, stack.valkey), router }, workflow, {
    flowId,
    onProgress: ({ executions }) => {
      events.onProgress({ phase: "submitting", tasks, done: executions, failed: 0, skipped: 0, messages: 0 });
    },
  });
  signal.throwIfAborted();
  const workers = new Workers({
    ...stack,
    router,
    partition: submission.partition,
    lanes,
    count: WORKERS,
    run: (execution) => Promise.resolve(simulate(execution, submission, failing)),
    onError: events.onError,
  });
  workers.start();
  try {
    const statusCounter = new FlowStatusCounter(stack.valkey, router, submission.tasks.keys());
    const idleReconciler = new IdleReconciler(stack.reconcile, events.onError);
    const status = await watch(stack, workers, statusCounter, idleReconciler, signal, ({ ended }) => {
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
    const seconds = Math.round(performance.now() - startedAt) / 1_000;
    return {
      flowId,
      submission,
      status,
      unfinished: statusCounter.unfinished,
      deadLetters: visible,
      seconds,
    };
  } finally {
    await workers.stop();
  }
}

/** Pipelines that fail once the signal aborts: a large submission must not hold up the end. */
function until(signal: AbortSignal, valkey: Pipelines): Pipelines {
  return {
    pipelined: (commands) =>
      signal.aborted
        ? Promise.resolve(commands.map(() => ({ ok: false, error: new Error("stopped") })))
        : valkey.pipelined(commands),
  };
}

/** What a task comes to; a real one would do its work here. */
function simulate({ id }: Execution, { tasks }: Submission, failing: ReadonlySet<string>): RunOutcome {
  const task = tasks.get(id) ?? id;
  return failing.has(task)
    ? { outcome: "failed", reason: `${task} was to fail` }
    : { outcome: "success", result: JSON.stringify({ task }) };
}

/**
 * Counts again and again until all have ended and the queue is empty, or nothing moves any more and a whole sweep since
 * then has found nothing. Idle is only believed when it lasts: a completion may be between a worker's hands and the
 * queue.
 */
async function watch(
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
    // A retry has its time, however far off: to wait for it is no standstill.
    if (status.delayed > 0) changedAt = performance.now();
    const stillFor = performance.now() - changedAt;
    const isOver = isQueueEmpty && status.ready === 0;
    const patienceMs = status.active === 0 ? STILL_MS : LOST_LEASE_MS;
    if (stillFor > STUCK_MS) return status;
    if (isOver && stillFor > patienceMs) {
      if (!(await idleReconciler.run(status))) return status;
      // What it has set in motion may not be seen at once.
      changedAt = performance.now();
    }
    await sleep(TICK_MS, undefined, { signal });
  }
}
