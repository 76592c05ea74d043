/** Workers on a real Valkey and a real queue protocol, with a ready queue per lane. */

import { randomUUID } from "node:crypto";
import type { SQSClient } from "@aws-sdk/client-sqs";
import type { Context } from "aws-lambda";
import { Poller } from "#local/poller.ts";
import { type LocalQueue, startQueue } from "#local/queue.ts";
import type { StartQueueServer } from "#local/queue-server.ts";
import { startValkey, type ValkeyServer } from "#local/valkey-server.ts";
import type { AnyTask } from "#sdk/kit/define-task.ts";
import { type LambdaWorkerHandler, lambdaWorker } from "#sdk/kit/lambda-worker.ts";
import { parseWorkflow } from "#sdk/submission/parse.ts";
import { type Submission, submitFlow } from "#sdk/submission/submit.ts";
import type { Edition } from "#shared/contract/edition.ts";
import { type LaneId, parseFlowId, parseLaneId, unwrap } from "#shared/contract/ids.ts";
import { DEFAULT_PARTITION_CONFIG, PartitionRouter } from "#shared/contract/partitions.ts";
import { SqsCompletionPublisher } from "#shared/queue/publisher.ts";
import { SqsReadyPublisher } from "#shared/ready/publisher.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { createReadyQueue } from "#test/support/ready.ts";
import { connectTo } from "#test/support/valkey.ts";

export const ROUTER = new PartitionRouter({ ...DEFAULT_PARTITION_CONFIG, numFlowPartitions: 4 });

/** A Valkey server with the library, a queue server, and the ready queues of some lanes. */
export class KitBed implements AsyncDisposable {
  readonly valkey: Valkey;
  readonly queue: LocalQueue;
  readonly client: SQSClient;
  readonly readyQueues: ReadonlyMap<LaneId, string>;
  readonly environment: Readonly<Record<string, string>>;
  readonly #server: ValkeyServer;
  readonly #pollers: Poller[] = [];

  private constructor(
    server: ValkeyServer,
    valkey: Valkey,
    queue: LocalQueue,
    client: SQSClient,
    readyQueues: ReadonlyMap<LaneId, string>,
  ) {
    this.#server = server;
    this.valkey = valkey;
    this.queue = queue;
    this.client = client;
    this.readyQueues = readyQueues;
    this.environment = {
      ...queue.environment,
      VALKEY_URL: server.url.href,
      FLOW_PARTITIONS: "4",
      COMPLETIONS_QUEUE_URL: queue.queueUrl,
      READY_QUEUES: JSON.stringify(Object.fromEntries(readyQueues)),
      POWERTOOLS_LOG_LEVEL: "SILENT",
    };
  }

  /** `options.server` starts the queue server; fauxqs by default. `edition`: that of the library; 14 by default. */
  static async start(
    lanes: readonly string[],
    {
      server: queueServer,
      edition = 14,
    }: { readonly server?: StartQueueServer; readonly edition?: Edition } = {},
  ): Promise<KitBed> {
    const server = await startValkey();
    const valkey = connectTo({ url: server.url, cluster: false });
    await ensureLibrary(valkey, edition);
    const queue = await startQueue({
      visibilityTimeoutSeconds: 60,
      ...(queueServer === undefined ? {} : { server: queueServer }),
    });
    const client = queue.client();
    const readyQueues = new Map<LaneId, string>();
    for (const name of lanes) {
      readyQueues.set(unwrap(parseLaneId(name)), await createReadyQueue(client, queue));
    }
    return new KitBed(server, valkey, queue, client, readyQueues);
  }

  get completions(): SqsCompletionPublisher {
    return new SqsCompletionPublisher(this.client, this.queue.queueUrl);
  }

  /** Submits a workflow in the native format. */
  submit(workflow: object, options: { readonly traceparent?: string } = {}): Promise<Submission> {
    const parsed = parseWorkflow(JSON.stringify(workflow), "workflow");
    if (!parsed.ok) throw new Error(parsed.errors.join("\n"));
    return submitFlow(
      {
        valkey: this.valkey,
        router: ROUTER,
        completions: this.completions,
        ready: new SqsReadyPublisher(this.client, this.readyQueues),
      },
      parsed.value,
      { flowId: unwrap(parseFlowId(randomUUID())), ...options },
    );
  }

  lambda(
    tasks: readonly AnyTask[],
    options: { readonly dispatch?: "inline" | "queue" } = {},
  ): LambdaWorkerHandler {
    // The AWS SDK of the handler reads the process's environment.
    Object.assign(process.env, this.queue.environment, { POWERTOOLS_METRICS_DISABLED: "true" });
    return lambdaWorker({ tasks, environment: this.environment, ...options });
  }

  /** Lets the queues of all lanes trigger a handler, as an event source mapping does, up to `concurrency` times at once. */
  trigger(handler: LambdaWorkerHandler, timeoutMs = 60_000, concurrency = 1): Poller[] {
    const pollers = [...this.readyQueues.values()].map(
      (queueUrl) =>
        new Poller({
          client: this.client,
          queueUrl,
          environments: Array.from({ length: concurrency }, () => ({
            invoke: (event) => handler(event, contextOf(timeoutMs)),
          })),
          longPollSeconds: 1,
          onError: () => undefined,
        }),
    );
    for (const poller of pollers) poller.start();
    this.#pollers.push(...pollers);
    return pollers;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#pollers.map((poller) => poller.stop()));
    this.client.destroy();
    this.valkey.close();
    await this.queue.stop();
    await this.#server.stop();
  }
}

/** The context of an invocation that has this much time, in milliseconds. */
export function contextOf(timeoutMs: number): Context {
  const endsAt = Date.now() + timeoutMs;
  return {
    awsRequestId: randomUUID(),
    functionName: "worker",
    functionVersion: "1",
    invokedFunctionArn: "arn:aws:lambda:us-east-1:000000000000:function:worker",
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
