import { type Completion, toBatchEntry } from "#shared/contract/message.ts";
import { BatchSender, type SendResult } from "#shared/queue/batch-sender.ts";
import type { QueueClient } from "#shared/queue/client.ts";

/** Sends completions to dispatch. */
export interface CompletionPublisher {
  /**
   * Sends all completions: one result per completion, in order. Never rejects. A completion that is not accepted by
   * `deadlineMs` (milliseconds since the epoch; no deadline by default) fails.
   */
  send(completions: readonly Completion[], deadlineMs?: number): Promise<SendResult[]>;
}

/** Publishes completions to an SQS queue through a `BatchSender`. */
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
