import { randomUUID } from "node:crypto";
import { type FlowStatus, FlowStatusCounter, type TaskState } from "#local/flow-status.ts";
import { simulatedTasks } from "#local/simulated-tasks.ts";
import type { Stack } from "#local/stack.ts";
import { untilEnded, untilQuiet } from "#local/wait.ts";
import { startWorkers } from "#local/workers.ts";
import type { WorkflowRun } from "#local/workflow-file.ts";
import { type Submission, submitFlow } from "#sdk/submission/submit.ts";
import type { Pipelines } from "#shared/contract/command.ts";
import { type FlowId, parseFlowId, unwrap } from "#shared/contract/ids.ts";
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

/** A flow that has ended, or that makes no progress any more. */
export interface RunResult {
  readonly flowId: FlowId;
  readonly submission: Submission;
  readonly status: FlowStatus;
  /** By task id. */
  readonly taskStates: ReadonlyMap<string, TaskState>;
  readonly unfinished: number;
  /** Messages that the queue moved to its dead-letter queue. */
  readonly deadLetters: number;
  /** From the start of the submission until the run is over. */
  readonly seconds: number;
}

/**
 * Submits a workflow and runs it with simulated tasks. Resolves when every execution has ended and the queue is empty, or when
 * the flow is idle and the reconciler finds nothing to repair. Rejects with the signal's reason when the signal aborts.
 */
export async function runWorkflow(
  stack: Stack,
  router: PartitionRouter,
  run: WorkflowRun & { readonly dispatch: "inline" | "queue" },
  signal: AbortSignal,
  events: { onProgress: (progress: RunProgress) => void; onError: (error: string) => void },
): Promise<RunResult> {
  const { workflow, failing, dispatch } = run;
  const { onProgress, onError } = events;
  const startedAt = performance.now();
  const flowId = unwrap(parseFlowId(randomUUID()));
  const tasks = workflow.tasks.length;
  const submission = await submitFlow(
    { ...stack, valkey: abortable(signal, stack.valkey), router },
    workflow,
    {
      flowId,
      onProgress: ({ executions }) =>
        onProgress({ phase: "submitting", tasks, done: executions, failed: 0, skipped: 0, messages: 0 }),
    },
  );
  signal.throwIfAborted();
  // The ready messages of the roots wait in their queues.
  await using workers = startWorkers(stack, router, {
    tasks: simulatedTasks(workflow, submission, failing),
    dispatch,
    onError,
  });
  const counter = new FlowStatusCounter(stack.valkey, router, submission.tasks.keys());
  const status = await untilEnded({ stack, workers, counter, signal, onError }, ({ ended }) => {
    const { messages } = stack.poller.counts;
    const { failed, skipped } = ended;
    onProgress({ phase: "running", tasks, done: tasks - counter.unfinished, failed, skipped, messages });
  });
  if (counter.unfinished === 0) await untilQuiet(stack, workers, signal);
  const { visible } = await stack.queue.counts(stack.queue.deadLetterQueueUrl);
  return {
    flowId,
    submission,
    status,
    taskStates: new Map([...counter.states].map(([id, state]) => [submission.tasks.get(id) ?? id, state])),
    unfinished: counter.unfinished,
    deadLetters: visible,
    seconds: Math.round(performance.now() - startedAt) / 1_000,
  };
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
