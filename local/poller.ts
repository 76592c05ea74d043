import {
  DeleteMessageBatchCommand,
  type Message,
  ReceiveMessageCommand,
  type SQSClient,
} from "@aws-sdk/client-sqs";
import type { SQSEvent } from "aws-lambda";
import { type EventSource, recordOf, verdictOf } from "#local/event.ts";
import { messageOf } from "#shared/errors.ts";

/** A place where a function runs: one event at a time. */
export interface ExecutionEnvironment {
  /** The function's answer; rejects when it threw, timed out or died. */
  invoke(event: SQSEvent): Promise<unknown>;
}

export interface PollerOptions {
  readonly client: SQSClient;
  readonly queueUrl: string;
  /** One event is under way in each, so their number is the concurrency. */
  readonly environments: readonly ExecutionEnvironment[];
  /** At most 10, which is also what it is when left out. */
  readonly batchSize?: number;
  /** How long a receive waits for a first message; SQS' greatest, 20, when left out. */
  readonly longPollSeconds?: number;
  /** Hears of every batch that failed as a whole, and of errors of the queue. */
  readonly onError: (fault: string) => void;
}

export interface PollerCounts {
  /** Different messages received. */
  readonly messages: number;
  /** Received messages, each as often as it was delivered. */
  readonly deliveries: number;
  /** Messages that were deleted after the function was done with them. */
  readonly done: number;
  /** Deliveries that the function, or its end, handed back to the queue. */
  readonly failed: number;
  /** The greatest `depth` attribute among the received messages. */
  readonly maxDepth: number;
}

const MOST_PER_RECEIVE = 10;
/** SQS' greatest: an empty queue costs one request in so many seconds. */
const LONG_POLL_SECONDS = 20;
const PAUSE_AFTER_FAULT_MS = 250;

/**
 * Stands in for Lambda's event source mapping: receives batches, invokes the function, deletes what succeeded. What
 * failed is left to its visibility timeout, after which the queue delivers it again or gives it up.
 *
 * It speaks to SQS itself. sqs-consumer, made for such loops, cannot tell when a stop is complete to better than a
 * second, and its abort ends deletions under way as well, so that finished messages would come again.
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

  /** Begins to poll, once for each execution environment. */
  start(): void {
    for (const environment of this.#options.environments) this.#loops.push(this.#loop(environment));
  }

  /** Receives nothing more and waits for the batches under way, their deletions included. */
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
        if (messages.length > 0) await this.#deliver(messages, environment);
      } catch (error) {
        if (this.#stopping.signal.aborted) return;
        this.#options.onError(`the queue failed: ${messageOf(error)}`);
        await pause(PAUSE_AFTER_FAULT_MS, this.#stopping.signal);
      }
    }
  }

  async #receive(): Promise<readonly Message[]> {
    const {
      client,
      queueUrl,
      batchSize = MOST_PER_RECEIVE,
      longPollSeconds = LONG_POLL_SECONDS,
    } = this.#options;
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

  /** The ids of the messages that failed. */
  async #invoke(event: SQSEvent, environment: ExecutionEnvironment): Promise<ReadonlySet<string>> {
    const ids = new Set(event.Records.map((record) => record.messageId));
    let reason: string;
    try {
      const verdict = verdictOf(await environment.invoke(event), ids);
      if (verdict.kind === "partial") return verdict.failed;
      reason = verdict.reason;
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
    // Not lost: it comes again, and the function has to bear that.
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
