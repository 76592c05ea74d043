import { messageOf, QueueError } from "#shared/errors.ts";
import type { QueueClient } from "#shared/queue/client.ts";

/** Tells how many messages wait for dispatch. */
export interface Backlog {
  /** Messages in the queue: visible, in flight and delayed. Up to a minute old. Rejects with a QueueError. */
  count(): Promise<number>;
}

const COUNTS = [
  "ApproximateNumberOfMessages",
  "ApproximateNumberOfMessagesNotVisible",
  "ApproximateNumberOfMessagesDelayed",
] as const;

/** The backlog of an SQS queue. Needs the permission `sqs:GetQueueAttributes`. */
export class SqsBacklog implements Backlog {
  readonly #client: QueueClient;
  readonly #queueUrl: string;

  constructor(client: QueueClient, queueUrl: string) {
    this.#client = client;
    this.#queueUrl = queueUrl;
  }

  async count(): Promise<number> {
    try {
      // Loaded with the first request, like the client.
      const { GetQueueAttributesCommand } = await import("#shared/queue/sdk.ts");
      const command = new GetQueueAttributesCommand({
        QueueUrl: this.#queueUrl,
        AttributeNames: [...COUNTS],
      });
      const { Attributes: attributes = {} } = await this.#client.send(command);
      const counts = COUNTS.map((name) => Number(attributes[name] ?? Number.NaN));
      const total = counts.reduce((sum, count) => sum + count, 0);
      if (!Number.isSafeInteger(total)) throw new QueueError("the queue's answer has no message counts");
      return total;
    } catch (error) {
      if (error instanceof QueueError) throw error;
      throw new QueueError(`reading the queue's message counts failed: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }
}
