import { BatchSender } from "#shared/queue/batch-sender.ts";
import type { QueueClient } from "#shared/queue/client.ts";
import type { Completion, CompletionSink, SendResult } from "#shared/queue/completion.ts";
import { entryOf } from "#shared/queue/message.ts";

/** Sends completions to an SQS queue, in batches, with the retries of a `BatchSender`. */
export class SqsCompletionSink implements CompletionSink {
  readonly #sender: BatchSender;

  constructor(client: QueueClient, queueUrl: string) {
    this.#sender = new BatchSender(client, queueUrl);
  }

  send(completions: readonly Completion[], deadlineMs?: number): Promise<SendResult[]> {
    return this.#sender.send(
      completions.map((completion, index) => entryOf(completion, String(index))),
      deadlineMs,
    );
  }
}
