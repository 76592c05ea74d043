import {
  ChangeMessageVisibilityBatchCommand,
  DeleteMessageBatchCommand,
  type Message,
  ReceiveMessageCommand,
} from "@aws-sdk/client-sqs";
import { QueueError } from "#shared/errors.ts";
import type { QueueClient } from "#shared/queue/client.ts";
import { type DeadLetter, parseDeadLetter } from "#shared/redrive/message.ts";

/** The limit of SQS for one request. */
const BATCH_SIZE = 10;
/** Concurrent requests. */
const CONCURRENCY = 8;
const DELETE_ATTEMPTS = 3;

/** How a pass receives from the dead-letter queue. */
export interface ReceiveOptions {
  /**
   * The visibility timeout. A longer pass receives a message again, recognizes it and hides it again. After a pass dies,
   * its messages stay hidden for up to this long.
   */
  readonly visibilitySeconds: number;
  /** The long-polling time. SQS queries all of its servers only if it is above 0. */
  readonly waitSeconds: number;
}

/** Receives, deletes and hides messages of the dead-letter queue. */
export class DeadLetterQueue {
  readonly #client: QueueClient;
  readonly #url: string;
  readonly #receiveOptions: ReceiveOptions;

  constructor(client: QueueClient, url: string, receiveOptions: ReceiveOptions) {
    this.#client = client;
    this.#url = url;
    this.#receiveOptions = receiveOptions;
  }

  /**
   * Sends `requests` concurrent receive requests, which wait up to `maxWaitMs`. Returns an empty list if the queue is
   * empty, or undefined if the time was too short to tell. Rejects with a QueueError.
   */
  async receive(requests: number, maxWaitMs: number): Promise<DeadLetter[] | undefined> {
    const waitSeconds = Math.min(
      this.#receiveOptions.waitSeconds,
      Math.max(0, Math.floor(maxWaitMs / 1_000)),
    );
    const settled = await Promise.allSettled(
      Array.from({ length: requests }, () => this.#receiveOnce(waitSeconds)),
    );
    const messages = settled.flatMap((result) => (result.status === "fulfilled" ? result.value : []));
    const failure = settled.find((result) => result.status === "rejected");
    // If another request succeeded, its messages are hidden now and must be processed first.
    if (messages.length === 0 && failure !== undefined) {
      throw new QueueError("receiving from the dead-letter queue failed", { cause: failure.reason });
    }
    // Without long polling, SQS queries only some of its servers: an empty reply proves nothing.
    if (messages.length === 0 && waitSeconds === 0 && this.#receiveOptions.waitSeconds > 0) return undefined;
    return messages.flatMap((message) => parseDeadLetter(message) ?? []);
  }

  async #receiveOnce(waitSeconds: number): Promise<Message[]> {
    const { Messages: messages = [] } = await this.#client.send(
      new ReceiveMessageCommand({
        QueueUrl: this.#url,
        MaxNumberOfMessages: BATCH_SIZE,
        VisibilityTimeout: this.#receiveOptions.visibilitySeconds,
        WaitTimeSeconds: waitSeconds,
        MessageAttributeNames: ["All"],
        MessageSystemAttributeNames: ["All"],
      }),
    );
    return messages;
  }

  /** Deletes messages by handle. Returns the handles that could not be deleted. Never rejects. */
  async delete(handles: readonly string[]): Promise<readonly string[]> {
    let remaining = handles;
    for (let attempt = 1; attempt <= DELETE_ATTEMPTS && remaining.length > 0; attempt += 1) {
      remaining = await inBatches(remaining, (Entries) =>
        this.#client.send(new DeleteMessageBatchCommand({ QueueUrl: this.#url, Entries })),
      );
    }
    return remaining;
  }

  /** Ends the visibility timeout of messages. Returns the number of messages that stay hidden. Never rejects. */
  async makeVisible(handles: readonly string[]): Promise<number> {
    const remaining = await inBatches(handles, (entries) =>
      this.#client.send(
        new ChangeMessageVisibilityBatchCommand({
          QueueUrl: this.#url,
          Entries: entries.map((entry) => ({ ...entry, VisibilityTimeout: 0 })),
        }),
      ),
    );
    return remaining.length;
  }
}

interface HandleEntry {
  readonly Id: string;
  readonly ReceiptHandle: string;
}

/** Sends requests for batches of ten handles. Returns the handles that no response confirmed. */
async function inBatches(
  handles: readonly string[],
  request: (
    entries: HandleEntry[],
  ) => Promise<{ readonly Successful?: readonly { readonly Id?: string | undefined }[] | undefined }>,
): Promise<string[]> {
  const unconfirmed: string[] = [];
  const starts = Array.from(
    { length: Math.ceil(handles.length / BATCH_SIZE) },
    (_, n) => n * BATCH_SIZE,
  ).values();
  const workers = Array.from({ length: CONCURRENCY }, async () => {
    for (const start of starts) {
      const batch = handles.slice(start, start + BATCH_SIZE);
      const entries = batch.map((handle, index) => ({ Id: String(index), ReceiptHandle: handle }));
      const done = await request(entries).then(
        ({ Successful: successful = [] }) => new Set(successful.map(({ Id: id }) => id)),
        // The outcome is unknown: count the whole batch as not done.
        () => new Set<string | undefined>(),
      );
      unconfirmed.push(...batch.filter((_, index) => !done.has(String(index))));
    }
  });
  await Promise.all(workers);
  return unconfirmed;
}
