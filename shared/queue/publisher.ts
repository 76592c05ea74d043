import { type Completion, toBatchEntry } from "#shared/contract/message.ts";
import { BatchSender, type SendResult } from "#shared/queue/batch-sender.ts";
import type { QueueClient } from "#shared/queue/client.ts";

/** Where completions are sent. */
export interface CompletionPublisher {
  /**
   * Sends all of them; results are in the completions' order. Never rejects. What is not accepted by `deadlineMs`
   * (milliseconds since the epoch; none unless given) is given up.
   */
  send(completions: readonly Completion[], deadlineMs?: number): Promise<SendResult[]>;
}

/** Sends completions to an SQS queue, in batches, with the retries of a `BatchSender`. */
export class SqsCompletionPublisher implements CompletionPublisher {
  readonly #sender: BatchSender;

  constructor(client: QueueClient, queueUrl: string) {
    this.#sender = new BatchSender(client, queueUrl);
  }

  send(completions: readonly Completion[], deadlineMs?: number): Promise<SendResult[]> {
    return this.#sender.send(
      completions.map((completion, index) => toBatchEntry(completion, String(index))),
      deadlineMs,
    );
  }
}
