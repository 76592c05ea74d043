import { messageOf, QueueError } from "#shared/errors.ts";
import type { QueueClient } from "#shared/queue/client.ts";

/** Tells how many messages wait for dispatch. */
export interface Backlog {
  /** Messages in the queue: visible, in flight and delayed. Up to a minute old. Rejects with a QueueError. */
  count(): Promise<number>;
}

/** Messages in a queue. Up to a minute old, and approximate. */
export interface QueueCounts {
  readonly visible: number;
  readonly inFlight: number;
  readonly delayed: number;
}

const COUNTS = {
  visible: "ApproximateNumberOfMessages",
  inFlight: "ApproximateNumberOfMessagesNotVisible",
  delayed: "ApproximateNumberOfMessagesDelayed",
} as const;

/** Reads the counts of a queue. Needs the permission `sqs:GetQueueAttributes`. Rejects with a QueueError. */
export async function readQueueCounts(client: QueueClient, queueUrl: string): Promise<QueueCounts> {
  try {
    // Loaded with the first request, like the client.
    const { GetQueueAttributesCommand } = await import("#shared/queue/sdk.ts");
    const command = new GetQueueAttributesCommand({
      QueueUrl: queueUrl,
      AttributeNames: Object.values(COUNTS),
    });
    const { Attributes: attributes = {} } = await client.send(command);
    const count = (name: keyof typeof COUNTS): number => {
      const value = Number(attributes[COUNTS[name]] ?? Number.NaN);
      if (!Number.isSafeInteger(value)) throw new QueueError("the queue's answer has no message counts");
      return value;
    };
    return { visible: count("visible"), inFlight: count("inFlight"), delayed: count("delayed") };
  } catch (error) {
    if (error instanceof QueueError) throw error;
    throw new QueueError(`reading the queue's message counts failed: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/** The backlog of an SQS queue. */
export class SqsBacklog implements Backlog {
  readonly #client: QueueClient;
  readonly #queueUrl: string;

  constructor(client: QueueClient, queueUrl: string) {
    this.#client = client;
    this.#queueUrl = queueUrl;
  }

  async count(): Promise<number> {
    const { visible, inFlight, delayed } = await readQueueCounts(this.#client, this.#queueUrl);
    return visible + inFlight + delayed;
  }
}
