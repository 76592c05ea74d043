import {
  ChangeMessageVisibilityBatchCommand,
  DeleteMessageBatchCommand,
  type Message,
  ReceiveMessageCommand,
} from "@aws-sdk/client-sqs";
import { QueueError } from "#shared/errors.ts";
import type { QueueClient } from "#shared/queue/client.ts";
import { type DeadMessage, readDeadMessage } from "#shared/redrive/message.ts";

/** SQS takes and gives no more at once. */
const BATCH_SIZE = 10;
/** Requests on their way at once. */
const CONCURRENCY = 8;
const DELETE_ATTEMPTS = 3;

/** How a pass reads the dead-letter queue, in seconds. */
export interface Reading {
  /**
   * For how long a received message is hidden. A pass that takes longer receives it once more, knows it, and hides it
   * again; a pass that dies leaves what it had hidden for that long.
   */
  readonly visibilitySeconds: number;
  /** For how long to wait for a message. More than none asks all of SQS' servers, and not a few of them. */
  readonly waitSeconds: number;
}

/** The dead-letter queue, as far as a receive-based pass uses it. */
export class DeadLetterQueue {
  readonly #client: QueueClient;
  readonly #url: string;
  readonly #reading: Reading;

  constructor(client: QueueClient, url: string, reading: Reading) {
    this.#client = client;
    this.#url = url;
    this.#reading = reading;
  }

  /**
   * Receives by so many requests at once, and takes no longer than `mostMs` to wait for a message. Empty where the
   * queue has nothing to give; undefined where it was given too little time to say so. Rejects with a QueueError.
   */
  async receive(requests: number, mostMs: number): Promise<DeadMessage[] | undefined> {
    const waitSeconds = Math.min(this.#reading.waitSeconds, Math.max(0, Math.floor(mostMs / 1_000)));
    const settled = await Promise.allSettled(
      Array.from({ length: requests }, () => this.#receiveOnce(waitSeconds)),
    );
    const messages = settled.flatMap((result) => (result.status === "fulfilled" ? result.value : []));
    const failure = settled.find((result) => result.status === "rejected");
    // What the others brought is hidden now: it is dealt with first.
    if (messages.length === 0 && failure !== undefined) {
      throw new QueueError("receiving from the dead-letter queue failed", { cause: failure.reason });
    }
    // A request that does not wait asks a few of SQS' servers only.
    if (messages.length === 0 && waitSeconds === 0 && this.#reading.waitSeconds > 0) return undefined;
    return messages.flatMap((message) => readDeadMessage(message) ?? []);
  }

  async #receiveOnce(waitSeconds: number): Promise<Message[]> {
    const { Messages: messages = [] } = await this.#client.send(
      new ReceiveMessageCommand({
        QueueUrl: this.#url,
        MaxNumberOfMessages: BATCH_SIZE,
        VisibilityTimeout: this.#reading.visibilitySeconds,
        WaitTimeSeconds: waitSeconds,
        MessageAttributeNames: ["All"],
        MessageSystemAttributeNames: ["All"],
      }),
    );
    return messages;
  }

  /** Deletes messages by their handles; those that it could not delete, and that come again. Never rejects. */
  async delete(handles: readonly string[]): Promise<readonly string[]> {
    let left = handles;
    for (let attempt = 1; attempt <= DELETE_ATTEMPTS && left.length > 0; attempt += 1) {
      left = await inBatches(left, (Entries) =>
        this.#client.send(new DeleteMessageBatchCommand({ QueueUrl: this.#url, Entries })),
      );
    }
    return left;
  }

  /** Makes messages visible again; how many stay hidden until their time is up. Never rejects. */
  async putBack(handles: readonly string[]): Promise<number> {
    const left = await inBatches(handles, (entries) =>
      this.#client.send(
        new ChangeMessageVisibilityBatchCommand({
          QueueUrl: this.#url,
          Entries: entries.map((entry) => ({ ...entry, VisibilityTimeout: 0 })),
        }),
      ),
    );
    return left.length;
  }
}

interface HandleEntry {
  readonly Id: string;
  readonly ReceiptHandle: string;
}

/** Does something with all handles, ten at a time; those for which it was not done. */
async function inBatches(
  handles: readonly string[],
  request: (
    entries: HandleEntry[],
  ) => Promise<{ readonly Successful?: readonly { readonly Id?: string | undefined }[] | undefined }>,
): Promise<string[]> {
  const left: string[] = [];
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
        // Nobody can say what became of it: as if nothing had been done.
        () => new Set<string | undefined>(),
      );
      left.push(...batch.filter((_, index) => !done.has(String(index))));
    }
  });
  await Promise.all(workers);
  return left;
}
