/** The embedded stack for tests: a Valkey server, a queue and the functions, as `npm start` runs them. */

import { randomUUID } from "node:crypto";
import { DEFAULT_MAX_CASCADE_DEPTH } from "#functions/dispatch/config.ts";
import type { TaskState } from "#local/flow-status.ts";
import { type FlowRun, runFlow } from "#local/run.ts";
import { type Stack, startStack } from "#local/stack.ts";
import { parseWorkflow } from "#sdk/submission/parse.ts";
import { type Submission, submitFlow } from "#sdk/submission/submit.ts";
import type { RunOutcome } from "#sdk/worker/finish.ts";
import type { Execution } from "#sdk/worker/worker.ts";
import { command, type Pipelines } from "#shared/contract/command.ts";
import { type LaneId, parseFlowId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { LANES_KEY } from "#shared/contract/keys.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import { ConfigurationError } from "#shared/errors.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";

/** One run of a task of the workflow. */
export interface TaskRun extends Execution {
  /** The id of the task in the workflow. */
  readonly task: string;
}

/** Runs a task. If it throws, the run has failed with the error's message as its reason. */
export type TaskHandler = (run: TaskRun) => Promise<RunOutcome>;

/** How a task has ended. */
export interface TaskEnd {
  readonly state: TaskState;
  /** What the task returned. Empty unless it succeeded. */
  readonly result: string;
  /** Why the task failed. Empty unless it did. */
  readonly reason: string;
}

/** A flow all of whose tasks have ended. */
export interface FlowEnd {
  /** By task id. */
  readonly tasks: ReadonlyMap<string, TaskEnd>;
}

/** A running stack. Pass it to every function of `sluice` and `sluice/worker` that takes a connection. */
export interface TestStack extends AsyncDisposable {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
  readonly completions: CompletionPublisher;
  /** Variables for the code under test: VALKEY_URL, COMPLETIONS_QUEUE_URL, and region, endpoint and credentials of SQS. */
  readonly environment: Readonly<Record<string, string>>;
  /**
   * Submits a workflow: an object in Sluice's JSON format or in WfFormat.
   *
   * @throws ConfigurationError that lists every error of the workflow.
   */
  submit(workflow: object): Promise<Submission>;
  /**
   * Runs a submitted flow to its end: claims executions, runs `handler` for each, and waits until all have ended.
   *
   * @throws Error if the flow stops before its end, with the states of its tasks and what went wrong.
   */
  run(flow: Submission, handler: TaskHandler): Promise<FlowEnd>;
  /** Ends all processes of the stack. A second call has no effect. */
  stop(): Promise<void>;
}

/**
 * Starts a stack for a test, on free ports of this machine: a private Valkey server without persistence, an SQS server in
 * this process, and the dispatch and reconcile functions. It takes about a second. Stop it after the test.
 *
 * It needs the package `fauxqs` and a `valkey-server`: from the variable VALKEY_SERVER, from
 * `npx sluice install-valkey`, or on the PATH.
 *
 * @throws ConfigurationError if one of them is missing. The message says what to do.
 *
 * @example
 * await using sluice = await startTestStack();
 * const flow = await sluice.submit({ name: "report", tasks: [{ id: "fetch" }, { id: "send", dependsOn: ["fetch"] }] });
 * const { tasks } = await sluice.run(flow, async ({ task }) => ({ outcome: "success", result: `${task} is done` }));
 * tasks.get("send"); // { state: "success", result: "send is done", reason: "" }
 */
export async function startTestStack(): Promise<TestStack> {
  const errors: string[] = [];
  const onError = (error: string): void => {
    errors.push(error);
  };
  const router = new PartitionRouter();
  const stack = await startStack({ router, maxCascadeDepth: DEFAULT_MAX_CASCADE_DEPTH, onError });
  const { valkey, completions, server, queue } = stack;
  const dependencies = { valkey, router, completions };
  let stopped: PromiseLike<void> | undefined;
  const stop = async (): Promise<void> => {
    stopped ??= stack[Symbol.asyncDispose]();
    await stopped;
  };
  return {
    ...dependencies,
    environment: {
      ...queue.environment,
      VALKEY_URL: server.url.href,
      VALKEY_CLUSTER_MODE: "false",
      COMPLETIONS_QUEUE_URL: queue.queueUrl,
    },
    submit: async (workflow) => {
      const parsed = parseWorkflow(JSON.stringify(workflow), "workflow");
      if (!parsed.ok) throw new ConfigurationError(parsed.errors);
      return submitFlow(dependencies, parsed.value, { flowId: unwrap(parseFlowId(randomUUID())) });
    },
    run: async (flow, handler) => {
      const ended = await runFlow(
        stack,
        router,
        {
          submission: flow,
          lanes: await lanesOf(stack, router, flow),
          run: (execution) => handler({ ...execution, task: flow.tasks.get(execution.id) ?? "" }),
        },
        new AbortController().signal,
        { onProgress: () => undefined, onError },
      );
      if (ended.unfinished > 0) throw new Error(describeUnfinished(ended, errors));
      return { tasks: await taskEnds(stack, router, flow, ended) };
    },
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

/** The lanes of a flow's executions. Records them, so that the reconciler finds the executions. */
async function lanesOf({ valkey }: Stack, router: PartitionRouter, flow: Submission): Promise<LaneId[]> {
  const fields = await valkey.pipelined(
    [...flow.tasks.keys()].map((id) => command(flow.partition, "hget", router.execKeys(id).core, "lane_id")),
  );
  const lanes = [...new Set(fields.map((field) => unwrap(parseLaneId(fieldText(valueOrThrow(field))))))];
  await valkey.call("sadd", LANES_KEY, ...lanes);
  return lanes;
}

async function taskEnds(
  { valkey }: Stack,
  router: PartitionRouter,
  flow: Submission,
  { taskStates }: FlowRun,
): Promise<Map<string, TaskEnd>> {
  const tasks = [...flow.executions];
  const replies = await valkey.pipelined(
    tasks.flatMap(([, id]) => {
      const { core, result } = router.execKeys(id);
      return [
        command(flow.partition, "get", result),
        command(flow.partition, "hget", core, "failure_reason"),
      ];
    }),
  );
  const texts = replies.map((reply) => fieldText(valueOrThrow(reply)));
  return new Map(
    tasks.map(([task], position) => {
      const state = taskStates.get(task) ?? "blocked";
      const [result = "", reason = ""] = texts.slice(2 * position);
      return [
        task,
        { state, result: state === "success" ? result : "", reason: state === "failed" ? reason : "" },
      ];
    }),
  );
}

function describeUnfinished({ taskStates, deadLetters }: FlowRun, errors: readonly string[]): string {
  const states = [...taskStates].map(([task, state]) => `${task} ${state}`).join(", ");
  return [
    `the flow makes no progress any more: ${states}`,
    ...(deadLetters === 0 ? [] : [`${deadLetters} completions are in the dead-letter queue`]),
    ...errors,
  ].join("\n");
}
