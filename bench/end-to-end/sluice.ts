import { randomUUID } from "node:crypto";
import { CreateQueueCommand, SQSClient } from "@aws-sdk/client-sqs";
import type { Context, SQSEvent } from "aws-lambda";
import type { Contender, GraphRun } from "#bench/end-to-end/contender.ts";
import { ROUTER } from "#bench/flows.ts";
import type { BenchServer } from "#bench/server.ts";
import { createDispatcher } from "#functions/dispatch/create-dispatcher.ts";
import { Poller } from "#local/poller.ts";
import { type LocalQueue, startQueue } from "#local/queue.ts";
import { containerWorker } from "#sdk/kit/container-worker.ts";
import { type AnyTask, defineTask } from "#sdk/kit/define-task.ts";
import { lambdaWorker } from "#sdk/kit/lambda-worker.ts";
import { planSubmission } from "#sdk/submission/plan.ts";
import { submitFlow } from "#sdk/submission/submit.ts";
import type { Workflow } from "#sdk/submission/workflow.ts";
import { parseFlowId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { SqsReadyPublisher } from "#shared/ready/publisher.ts";

const LANE = unwrap(parseLaneId("default"));
const NAMESPACE = "default";
const INVOCATION_MS = 300_000;
const SILENT = {
  count: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: (message: string) => {
    throw new Error(`the worker failed: ${message}`);
  },
};

/** How the executions are run. */
export type SluiceKind = "container worker" | "Lambda workers" | "Lambda workers and dispatch function";

interface Running {
  readonly starts: number[];
  readonly ended: PromiseWithResolvers<number>;
  readonly last: string;
}

/** Sluice with no-op tasks, everything but Valkey in this process. */
export async function startSluice(
  kind: SluiceKind,
  server: BenchServer,
  concurrency: number,
): Promise<Contender> {
  await using parts = new AsyncDisposableStack();
  const counted = parts.use(countRequests());
  const queue = parts.use(await startQueue({ visibilityTimeoutSeconds: 60 }));
  const client = parts.adopt(queue.client(), (own) => own.destroy());
  const readyUrl = await createQueue(client, queue);
  const environment = {
    ...queue.environment,
    VALKEY_URL: server.url.href,
    FLOW_PARTITIONS: String(ROUTER.numFlowPartitions),
    COMPLETIONS_QUEUE_URL: queue.queueUrl,
    DEAD_LETTER_QUEUE_URL: queue.deadLetterQueueUrl,
    READY_QUEUES: JSON.stringify({ [LANE]: readyUrl }),
    POWERTOOLS_LOG_LEVEL: "SILENT",
    POWERTOOLS_METRICS_DISABLED: "true",
  };
  // The AWS SDK reads the environment of the process.
  Object.assign(process.env, environment);
  const flows = new Map<string, Running>();
  const task = defineTask({
    kind: "task",
    timeout: "20s",
    run: (_input, { flowId, executionId }) => {
      const now = performance.now();
      const flow = flows.get(flowId);
      flow?.starts.push(now);
      if (flow?.last === executionId) flow.ended.resolve(now);
    },
  });
  const invocations = { count: 0 };
  if (kind === "container worker") {
    const stopping = new AbortController();
    const running = containerWorker({
      tasks: [task],
      concurrency: { [LANE]: concurrency },
      environment,
      telemetry: SILENT,
    }).run(stopping.signal);
    parts.defer(async () => {
      stopping.abort();
      await running;
    });
  } else
    startFunctions(kind, parts, { client, queue, readyUrl, environment, task, invocations, concurrency });
  const completions = new SqsCompletionPublisher(client, queue.queueUrl);
  const ready = new SqsReadyPublisher(client, new Map([[LANE, readyUrl]]));
  const run = async (workflow: Workflow, lastTask: string): Promise<GraphRun> => {
    const flowId = unwrap(parseFlowId(randomUUID()));
    const { tasks } = planSubmission(ROUTER, workflow, flowId, NAMESPACE);
    const last = tasks.find((planned) => planned.task.id === lastTask)?.keys.id ?? "";
    const running = { starts: [], ended: Promise.withResolvers<number>(), last };
    flows.set(flowId, running);
    await submitFlow({ valkey: server.valkey, router: ROUTER, completions, ready }, workflow, { flowId });
    const submittedAt = performance.now();
    const endedAt = await running.ended.promise;
    flows.delete(flowId);
    return { submittedAt, endedAt, starts: running.starts };
  };
  const all = parts.move();
  return {
    name: kind,
    get traffic() {
      return { requests: counted.count, invocations: invocations.count };
    },
    chain: (length) => run(chainOf(length), `task-${length}`),
    fan: (width) => run(fanOf(width), "last"),
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

function startFunctions(
  kind: SluiceKind,
  parts: AsyncDisposableStack,
  options: {
    readonly client: SQSClient;
    readonly queue: LocalQueue;
    readonly readyUrl: string;
    readonly environment: Readonly<Record<string, string>>;
    readonly task: AnyTask;
    readonly invocations: { count: number };
    readonly concurrency: number;
  },
): void {
  const { client, queue, readyUrl, environment, task, invocations, concurrency } = options;
  const withDispatch = kind === "Lambda workers and dispatch function";
  const worker = lambdaWorker({ tasks: [task], environment, dispatch: withDispatch ? "queue" : "inline" });
  const dispatcher = createDispatcher(environment);
  const poll = (queueUrl: string, invoke: (event: SQSEvent) => Promise<unknown>): void => {
    const poller = new Poller({
      client,
      queueUrl,
      longPollSeconds: queue.longPollSeconds,
      environments: Array.from({ length: Math.ceil(concurrency / 10) }, () => ({
        invoke: (event: SQSEvent) => {
          invocations.count += 1;
          return invoke(event);
        },
      })),
      onError: SILENT.error,
    });
    poller.start();
    parts.defer(() => poller.stop());
  };
  poll(readyUrl, (event) => worker(event, contextOf()));
  poll(queue.queueUrl, (event) => dispatcher(event, contextOf()));
}

/** Counts the requests of every SQS client of this process. */
function countRequests(): { readonly count: number } & Disposable {
  const original = SQSClient.prototype.send;
  const counter = {
    count: 0,
    [Symbol.dispose]() {
      SQSClient.prototype.send = original;
    },
  };
  SQSClient.prototype.send = function counted(this: SQSClient, ...args: Parameters<typeof original>) {
    counter.count += 1;
    return original.apply(this, args);
  } as typeof original;
  return counter;
}

async function createQueue(client: SQSClient, { endpoint }: LocalQueue): Promise<string> {
  const { QueueUrl: url = "" } = await client.send(
    new CreateQueueCommand({ QueueName: `ready-${randomUUID()}`, Attributes: { VisibilityTimeout: "60" } }),
  );
  return `${endpoint}${new URL(url).pathname}`;
}

function contextOf(): Context {
  const endsAt = Date.now() + INVOCATION_MS;
  return {
    awsRequestId: randomUUID(),
    functionName: "bench",
    functionVersion: "1",
    invokedFunctionArn: "arn:aws:lambda:us-east-1:000000000000:function:bench",
    memoryLimitInMB: "512",
    logGroupName: "",
    logStreamName: "",
    callbackWaitsForEmptyEventLoop: false,
    getRemainingTimeInMillis: () => endsAt - Date.now(),
    done: () => undefined,
    fail: () => undefined,
    succeed: () => undefined,
  };
}

function taskOf(id: string): Workflow["tasks"][number] {
  return { id, lane: LANE, priority: 0, payload: "" };
}

function chainOf(length: number): Workflow {
  const ids = Array.from({ length }, (_, at) => `task-${at + 1}`);
  return {
    name: "chain",
    tasks: ids.map(taskOf),
    edges: ids.slice(1).map((to, at) => ({ from: ids[at] ?? "", to, dataPassing: false })),
  };
}

function fanOf(width: number): Workflow {
  const middle = Array.from({ length: width }, (_, at) => `middle-${at}`);
  return {
    name: "fan",
    tasks: ["first", ...middle, "last"].map(taskOf),
    edges: middle.flatMap((id) => [
      { from: "first", to: id, dataPassing: false },
      { from: id, to: "last", dataPassing: false },
    ]),
  };
}
