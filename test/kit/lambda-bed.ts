/** A Lambda worker without its event source: each test receives and delivers its messages itself. */

import {
  DeleteMessageBatchCommand,
  type Message,
  PurgeQueueCommand,
  ReceiveMessageCommand,
} from "@aws-sdk/client-sqs";
import type { SQSRecord } from "aws-lambda";
import { recordOf } from "#local/event.ts";
import type { AnyTask } from "#sdk/kit/define-task.ts";
import { inlineDispatch } from "#sdk/kit/inline-dispatch.ts";
import { runLambdaBatch } from "#sdk/kit/lambda-batch.ts";
import type { TaskMetrics, WorkerPorts } from "#sdk/kit/ports.ts";
import { ReadyQueues } from "#sdk/kit/ready-queues.ts";
import { TaskRegistry } from "#sdk/kit/registry.ts";
import type { Submission } from "#sdk/submission/submit.ts";
import { listOf } from "#sdk/worker/leasing.ts";
import { parseLaneId, unwrap } from "#shared/contract/ids.ts";
import type { QueueClient } from "#shared/queue/client.ts";
import { SqsReadyPublisher } from "#shared/ready/publisher.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { KitBed, ROUTER } from "#test/kit/kit-bed.ts";

export const LANE = unwrap(parseLaneId("default"));
const SOURCE = { queueArn: "arn:aws:sqs:us-east-1:000000000000:ready", region: "us-east-1" };
const INVOCATION_MS = 60_000;

export interface Delivered {
  /** The ids of the messages that must be delivered again. */
  readonly failed: readonly string[];
}

export interface DeliverOptions {
  readonly timeoutMs?: number;
  readonly ports?: Partial<WorkerPorts>;
}

export class LambdaBed implements AsyncDisposable {
  readonly bed: KitBed;
  /** What the worker logged, counted and deleted, in order. */
  readonly events: string[] = [];
  readonly warnings: string[] = [];

  private constructor(bed: KitBed) {
    this.bed = bed;
  }

  static async start(lanes: readonly string[] = ["default", "images"]): Promise<LambdaBed> {
    return new LambdaBed(await KitBed.start(lanes));
  }

  get urls(): string[] {
    return [...this.bed.readyQueues.values()];
  }

  /** The URL of the ready queue of a lane. */
  urlOf(lane: string): string {
    return this.bed.readyQueues.get(unwrap(parseLaneId(lane))) ?? "";
  }

  /** Receives the messages of a lane. Waits for the first one for `waitSeconds`. */
  async receive(lane = "default", waitSeconds = 1): Promise<SQSRecord[]> {
    const { Messages: messages = [] } = await this.bed.client.send(
      new ReceiveMessageCommand({
        QueueUrl: this.urlOf(lane),
        MaxNumberOfMessages: 10,
        WaitTimeSeconds: waitSeconds,
        MessageAttributeNames: ["All"],
        MessageSystemAttributeNames: ["All"],
      }),
    );
    return messages.map((message: Message) => recordOf(message, SOURCE));
  }

  /** What a worker needs, with the real clients. */
  ports(): WorkerPorts & { readonly queues: ReadyQueues } {
    const { bed } = this;
    const client: QueueClient = {
      send: (command, options) => {
        if (command instanceof DeleteMessageBatchCommand) {
          this.events.push(`deleted ${command.input.Entries?.length ?? 0}`);
        }
        return bed.client.send(command, options);
      },
    };
    const ready = new SqsReadyPublisher(client, bed.readyQueues);
    const log = this.telemetry;
    return {
      valkey: bed.valkey,
      router: ROUTER,
      identity: { workerId: "test", instanceId: "test-1" },
      completions: bed.completions,
      ready,
      queues: new ReadyQueues(client, bed.readyQueues),
      dispatch: inlineDispatch({
        valkey: bed.valkey,
        router: ROUTER,
        publisher: bed.completions,
        ready,
        telemetry: log,
        ensureLibrary: async () => void (await ensureLibrary(bed.valkey, 14)),
        now: Date.now,
      }),
      log,
      metrics: this.metrics,
      now: Date.now,
    };
  }

  readonly telemetry = {
    count: () => undefined,
    info: () => undefined,
    warn: (message: string) => void this.warnings.push(message),
    error: (message: string) => void this.warnings.push(message),
  };

  readonly metrics: TaskMetrics = {
    ran: ({ kind }, { outcome, attempt, isReclaim }) =>
      void this.events.push(`${kind}: ${outcome}, attempt ${attempt}${isReclaim ? ", reclaimed" : ""}`),
    unknownKind: (lane, kind) => void this.events.push(`unknown ${lane}/${kind}`),
  };

  /** Runs the messages. Those that are done are deleted, as the event source mapping does. */
  async deliver(
    tasks: readonly AnyTask[],
    records: readonly SQSRecord[],
    { timeoutMs = INVOCATION_MS, ports = {} }: DeliverOptions = {},
  ): Promise<Delivered> {
    const { bed } = this;
    const deadlineMs = (ports.now?.() ?? Date.now()) + timeoutMs;
    const { batchItemFailures } = await runLambdaBatch(
      { ...this.ports(), ...ports },
      new TaskRegistry(tasks),
      records,
      deadlineMs,
    );
    const failed = batchItemFailures.map(({ itemIdentifier }) => itemIdentifier);
    for (const { messageId, receiptHandle, body } of records) {
      if (failed.includes(messageId)) continue;
      const QueueUrl = this.urlOf(String((JSON.parse(body) as { lane?: unknown }).lane ?? "default"));
      const Entries = [{ Id: "0", ReceiptHandle: receiptHandle }];
      await bed.client.send(new DeleteMessageBatchCommand({ QueueUrl, Entries }));
    }
    return { failed };
  }

  /** The record of a task. */
  async record(submission: Submission, task: string): Promise<Record<string, string>> {
    const { core } = this.keys(submission, task);
    const names = listOf(await this.bed.valkey.call("hkeys", core)).map(String);
    if (names.length === 0) return {};
    const values = listOf(await this.bed.valkey.call("hmget", core, ...names));
    return Object.fromEntries(names.map((name, at) => [name, String(values[at])]));
  }

  keys({ executions }: Submission, task: string) {
    const id = executions.get(task);
    if (id === undefined) throw new RangeError(`there is no task ${task}`);
    return ROUTER.execKeys(id);
  }

  /** Ends the lease of a task, as its time does. */
  async lapse(submission: Submission, task: string): Promise<void> {
    const keys = this.keys(submission, task);
    await this.bed.valkey.call("hset", keys.core, "lease_expires_at", 1);
    await this.bed.valkey.call("hset", keys.leaseCurrent, "expires_at", 1);
    await this.bed.valkey.call("zadd", ROUTER.indexKeys(keys.partition).leaseExpiry, 1, keys.id);
  }

  /** Removes what a test left in the queues and in Valkey. */
  async reset(): Promise<void> {
    await this.bed.valkey.call("flushdb");
    this.events.length = 0;
    this.warnings.length = 0;
    for (const QueueUrl of [...this.urls, this.bed.queue.queueUrl]) {
      await this.bed.client.send(new PurgeQueueCommand({ QueueUrl }));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.bed[Symbol.asyncDispose]();
  }
}
