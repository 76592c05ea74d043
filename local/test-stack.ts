/** The embedded stack for tests: a Valkey server, queues, the functions and a worker. */

import { randomUUID } from "node:crypto";
import { DEFAULT_MAX_CASCADE_DEPTH } from "#functions/dispatch/config.ts";
import { FlowStatusCounter, type TaskState } from "#local/flow-status.ts";
import { type Stack, startStack } from "#local/stack.ts";
import { untilEnded } from "#local/wait.ts";
import { startWorkers } from "#local/workers.ts";
import type { AnyTask } from "#sdk/kit/define-task.ts";
import { DEFAULT_KIND } from "#sdk/submission/executions.ts";
import { parseWorkflow } from "#sdk/submission/parse.ts";
import { type Submission, submitFlow } from "#sdk/submission/submit.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";
import { command, type Pipelines } from "#shared/contract/command.ts";
import { type LaneId, parseFlowId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { fieldText } from "#shared/contract/record.ts";
import { ConfigurationError } from "#shared/errors.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import type { ReadyPublisher } from "#shared/ready/publisher.ts";
import { valueOrThrow } from "#shared/valkey/batches.ts";

/** Options of `startTestStack`. */
export interface TestStackOptions {
  /** The tasks that the stack's own worker runs, each lane from its ready queue. Default: none. */
  readonly tasks?: readonly AnyTask[];
  /** Further lanes with a ready queue, whose workers you run yourself with `environment`. */
  readonly lanes?: readonly string[];
}

/** How a task has ended. */
export interface TaskEnd {
  readonly state: TaskState;
  /** What the task returned, as it comes out of JSON. Undefined unless it succeeded. */
  readonly result: unknown;
  /** Why the task failed. Empty unless it did. */
  readonly reason: string;
}

/** A flow all of whose tasks have ended. */
export interface FlowEnd {
  readonly flow: Submission;
  /** By task id. */
  readonly tasks: ReadonlyMap<string, TaskEnd>;
}

/** A running stack. Pass it to every function of `sluice` and `sluice/worker` that takes a connection. */
export interface TestStack extends AsyncDisposable {
  readonly valkey: Pipelines;
  readonly router: PartitionRouter;
  readonly completions: CompletionPublisher;
  readonly ready: ReadyPublisher;
  /**
   * Variables for the code under test: VALKEY_URL, COMPLETIONS_QUEUE_URL, READY_QUEUES and so on, and region, endpoint and
   * credentials of SQS, which the AWS SDK reads from `process.env`.
   */
  readonly environment: Readonly<Record<string, string>>;
  /**
   * Submits a workflow: an object in Sluice's JSON format or in WfFormat. Several flows can run at once.
   *
   * @throws ConfigurationError that lists every error of the workflow, and every task that no worker of the stack runs.
   */
  submit(workflow: object): Promise<Submission>;
  /**
   * Waits until all tasks of a submitted flow have ended, and reads their results.
   *
   * @throws Error if the flow stops before its end, with the states of its tasks and what went wrong.
   */
  waitForEnd(flow: Submission): Promise<FlowEnd>;
  /** Submits a workflow, and waits for its end. */
  run(workflow: object): Promise<FlowEnd>;
  /** Waits for the tasks that run, and ends all processes of the stack. A second call has no effect. */
  stop(): Promise<void>;
}

/**
 * Starts a stack for a test, on free ports of this machine: a private Valkey server without persistence, an SQS server in
 * this process, the dispatch and reconcile functions, and a worker in this process for `tasks`. It takes about a second. Stop
 * it after the test; tests can share one.
 *
 * It needs the package `fauxqs` and a `valkey-server`: from the variable VALKEY_SERVER, from
 * `npx sluice install-valkey`, or on the PATH.
 *
 * @throws ConfigurationError if one of them is missing, or if two tasks have the same lane and kind. The message says what to
 * do.
 *
 * @example
 * await using stack = await startTestStack({ tasks: [fetchReport, sendReport] });
 * const { tasks } = await stack.run({
 *   name: "report",
 *   tasks: [{ id: "fetch", kind: "fetch" }, { id: "send", kind: "send", dependsOn: ["fetch"] }],
 * });
 * tasks.get("send"); // { state: "success", result: { sent: true }, reason: "" }
 */
export async function startTestStack(options: TestStackOptions = {}): Promise<TestStack> {
  const { tasks = [], lanes = [] } = options;
  const ownLanes = lanes.map((lane) => unwrap(parseLaneId(lane)));
  const errors: string[] = [];
  const onError = (error: string): void => {
    errors.push(error);
  };
  const router = new PartitionRouter();
  await using parts = new AsyncDisposableStack();
  const stack = parts.use(
    await startStack({
      router,
      maxCascadeDepth: DEFAULT_MAX_CASCADE_DEPTH,
      lanes: [...new Set([...tasks.map(({ lane }) => lane), ...ownLanes])],
      onError,
      // Only this edition has groups of edges.
      edition: 14,
    }),
  );
  const workers =
    tasks.length === 0
      ? undefined
      : parts.use(startWorkers(stack, router, { tasks, dispatch: "inline", onError }));
  const { valkey, completions, ready, environment } = stack;
  const dependencies = { valkey, router, completions, ready };
  const all = parts.move();
  let stopped: PromiseLike<void> | undefined;
  const stop = async (): Promise<void> => {
    stopped ??= all.disposeAsync();
    await stopped;
  };
  const submit = async (workflow: object): Promise<Submission> => {
    const parsed = parseWorkflow(JSON.stringify(workflow), "workflow");
    if (!parsed.ok) throw new ConfigurationError(parsed.errors);
    if (tasks.length > 0) checkTasks(parsed.value, tasks, ownLanes);
    return submitFlow(dependencies, parsed.value, { flowId: unwrap(parseFlowId(randomUUID())) });
  };
  const waitForEnd = async (flow: Submission): Promise<FlowEnd> => {
    const counter = new FlowStatusCounter(valkey, router, flow.tasks.keys());
    await untilEnded({ stack, workers, counter, onError }, () => undefined);
    const states = new Map([...counter.states].map(([id, state]) => [flow.tasks.get(id) ?? id, state]));
    if (counter.unfinished > 0) throw new Error(await describeUnfinished(stack, states, errors));
    return { flow, tasks: await taskEnds(stack, router, flow, states) };
  };
  return {
    ...dependencies,
    environment,
    submit,
    waitForEnd,
    run: async (workflow) => waitForEnd(await submit(workflow)),
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

/** A task without a worker would wait until the test times out. */
function checkTasks(workflow: Workflow, tasks: readonly AnyTask[], otherLanes: readonly LaneId[]): void {
  const missing = workflow.tasks.filter(
    ({ lane, kind = DEFAULT_KIND }) =>
      !otherLanes.includes(lane) && !tasks.some((task) => task.lane === lane && task.kind === kind),
  );
  if (missing.length === 0) return;
  throw new ConfigurationError(
    missing.map(
      ({ id, lane, kind = DEFAULT_KIND }) =>
        `task "${id}": the stack has no task of kind "${kind}" in lane "${lane}": pass it to startTestStack`,
    ),
  );
}

async function taskEnds(
  { valkey }: Stack,
  router: PartitionRouter,
  flow: Submission,
  states: ReadonlyMap<string, TaskState>,
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
      const state = states.get(task) ?? "blocked";
      const [result = "", reason = ""] = texts.slice(2 * position);
      return [
        task,
        {
          state,
          result: state === "success" ? parseResult(result) : undefined,
          reason: state === "failed" ? reason : "",
        },
      ];
    }),
  );
}

/** Workers of one's own may store text that is not JSON. */
function parseResult(text: string): unknown {
  if (text === "") return undefined;
  try {
    return JSON.parse(text);
  } catch (_notJson) {
    return text;
  }
}

async function describeUnfinished(
  { queue }: Stack,
  taskStates: ReadonlyMap<string, TaskState>,
  errors: readonly string[],
): Promise<string> {
  const states = [...taskStates].map(([task, state]) => `${task} ${state}`).join(", ");
  const { visible } = await queue.counts(queue.deadLetterQueueUrl);
  return [
    `the flow makes no progress any more: ${states}`,
    ...(visible === 0 ? [] : [`${visible} completions are in the dead-letter queue`]),
    ...errors,
  ].join("\n");
}
