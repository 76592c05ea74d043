import {
  DeleteMessageBatchCommand,
  type Message,
  ReceiveMessageCommand,
  type SQSClient,
} from "@aws-sdk/client-sqs";
import type { SQSEvent } from "aws-lambda";
import { type EventSource, parseBatchResponse, recordOf } from "#local/event.ts";
import { messageOf } from "#shared/errors.ts";

/** Runs a function for one event at a time. */
export interface ExecutionEnvironment {
  /** The function's response. Rejects when it threw, timed out or died. */
  invoke(event: SQSEvent): Promise<unknown>;
}

export interface PollerOptions {
  readonly client: SQSClient;
  readonly queueUrl: string;
  /** Each handles one event at a time, so their number is the concurrency. */
  readonly environments: readonly ExecutionEnvironment[];
  /** 1 to 10; the default is 10. */
  readonly batchSize?: number;
  /** How long a receive waits for a first message, 0 to 20 seconds; the default is 20. */
  readonly longPollSeconds?: number;
  /** Called when a batch has been processed. */
  readonly onBatch?: () => void;
  /** Receives a message for each batch that failed as a whole, and for each error of the queue. */
  readonly onError: (error: string) => void;
}

export interface PollerCounts {
  /** Distinct messages received. */
  readonly messages: number;
  /** Deliveries; a redelivered message counts each time. */
  readonly deliveries: number;
  /** Messages that the function processed and the queue deleted. */
  readonly done: number;
  /** Deliveries that failed: the queue redelivers them after the visibility timeout. */
  readonly failed: number;
  /** The greatest `depth` attribute of the received messages. */
  readonly maxDepth: number;
}

/** SQS' maximum. */
const MAX_BATCH = 10;
/** SQS' maximum: an idle queue then costs one request every 20 seconds. */
const LONG_POLL_SECONDS = 20;
const PAUSE_AFTER_ERROR_MS = 250;

/**
 * A local event source mapping, as Lambda has it for SQS. It receives batches, invokes the function, and deletes the
 * messages that succeeded. After the visibility timeout, the queue redelivers or dead-letters those that failed.
 *
 * It does not use the package sqs-consumer: its stop takes up to a second to be noticed, and its abort also cancels
 * deletions in flight, so processed messages would be redelivered.
 */
export class Poller {
  readonly #options: PollerOptions;
  readonly #source: EventSource;
  readonly #stopping = new AbortController();
  readonly #seen = new Set<string>();
  readonly #loops: Promise<void>[] = [];
  #deliveries = 0;
  #done = 0;
  #failed = 0;
  #maxDepth = 0;

  constructor(options: PollerOptions) {
    this.#options = options;
    const name = new URL(options.queueUrl).pathname.split("/").at(-1) ?? "";
    this.#source = { queueArn: `arn:aws:sqs:us-east-1:000000000000:${name}`, region: "us-east-1" };
  }

  /** Starts one polling loop per execution environment. */
  start(): void {
    for (const environment of this.#options.environments) this.#loops.push(this.#loop(environment));
  }

  /** Stops receiving and waits for the batches in flight, including their deletions. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await Promise.all(this.#loops);
  }

  get counts(): PollerCounts {
    return {
      messages: this.#seen.size,
      deliveries: this.#deliveries,
      done: this.#done,
      failed: this.#failed,
      maxDepth: this.#maxDepth,
    };
  }

  async #loop(environment: ExecutionEnvironment): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      try {
        const messages = await this.#receive();
        if (messages.length === 0) continue;
        await this.#deliver(messages, environment);
        this.#options.onBatch?.();
      } catch (error) {
        if (this.#stopping.signal.aborted) return;
        this.#options.onError(`the queue failed: ${messageOf(error)}`);
        await pause(PAUSE_AFTER_ERROR_MS, this.#stopping.signal);
      }
    }
  }

  async #receive(): Promise<readonly Message[]> {
    const { client, queueUrl, batchSize = MAX_BATCH, longPollSeconds = LONG_POLL_SECONDS } = this.#options;
    const response = await client.send(
      new ReceiveMessageCommand({
        QueueUrl: queueUrl,
        MaxNumberOfMessages: batchSize,
        WaitTimeSeconds: longPollSeconds,
        MessageAttributeNames: ["All"],
        MessageSystemAttributeNames: ["All"],
      }),
      { abortSignal: this.#stopping.signal },
    );
    return response.Messages ?? [];
  }

  async #deliver(messages: readonly Message[], environment: ExecutionEnvironment): Promise<void> {
    const records = messages.map((message) => recordOf(message, this.#source));
    this.#deliveries += records.length;
    for (const { messageId, messageAttributes } of records) {
      this.#seen.add(messageId);
      this.#maxDepth = Math.max(this.#maxDepth, Number(messageAttributes.depth?.stringValue ?? 0) || 0);
    }
    const failed = await this.#invoke({ Records: records }, environment);
    this.#failed += failed.size;
    await this.#delete(messages.filter(({ MessageId: id }) => id !== undefined && !failed.has(id)));
  }

  /** Returns the ids of the messages that failed. */
  async #invoke(event: SQSEvent, environment: ExecutionEnvironment): Promise<ReadonlySet<string>> {
    const ids = new Set(event.Records.map((record) => record.messageId));
    let reason: string;
    try {
      const result = parseBatchResponse(await environment.invoke(event), ids);
      if (result.kind === "partial") return result.failed;
      reason = result.reason;
    } catch (error) {
      reason = messageOf(error);
    }
    this.#options.onError(`a batch of ${ids.size} failed: ${reason}`);
    return ids;
  }

  async #delete(messages: readonly Message[]): Promise<void> {
    if (messages.length === 0) return;
    const response = await this.#options.client.send(
      new DeleteMessageBatchCommand({
        QueueUrl: this.#options.queueUrl,
        Entries: messages.map((message, index) => ({
          Id: String(index),
          ReceiptHandle: message.ReceiptHandle,
        })),
      }),
    );
    const refused = response.Failed ?? [];
    this.#done += messages.length - refused.length;
    // Not lost: the queue redelivers the message, and the function is idempotent.
    for (const { Code: code } of refused) this.#options.onError(`a message was not deleted: ${code}`);
  }
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
