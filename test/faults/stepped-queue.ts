/**
 * The queue as a poller sees it, one call at a time: nothing is left to timers. Putting a message back at once stands
 * for the end of its visibility timeout.
 */

import {
  ChangeMessageVisibilityBatchCommand,
  DeleteMessageBatchCommand,
  ReceiveMessageCommand,
  SendMessageCommand,
  SetQueueAttributesCommand,
  type SQSClient,
} from "@aws-sdk/client-sqs";
import type { SQSRecord } from "aws-lambda";
import { recordOf } from "#local/event.ts";
import type { LocalQueue } from "#local/queue.ts";

const SOURCE = { queueArn: "arn:aws:sqs:us-east-1:000000000000:completions", region: "us-east-1" };

/** What became of one delivery. */
export interface Delivery {
  readonly failed: ReadonlySet<string>;
  /** Why the whole batch failed; undefined: it did not. */
  readonly reason: string | undefined;
}

export class SteppedQueue {
  readonly queue: LocalQueue;
  readonly sqs: SQSClient;
  /** Messages that were taken off the queue because they were done. */
  acknowledged = 0;

  constructor(queue: LocalQueue) {
    this.queue = queue;
    this.sqs = queue.client();
  }

  /** Deliveries before the queue gives a message up. */
  async allowReceives(most: number): Promise<void> {
    await this.sqs.send(
      new SetQueueAttributesCommand({
        QueueUrl: this.queue.queueUrl,
        Attributes: {
          RedrivePolicy: JSON.stringify({
            deadLetterTargetArn: "arn:aws:sqs:us-east-1:000000000000:completions-dead-letters",
            maxReceiveCount: most,
          }),
        },
      }),
    );
  }

  /** Takes up to `most` messages, or nothing where there is none to be had now. */
  async receive(most: number, queueUrl = this.queue.queueUrl): Promise<SQSRecord[]> {
    const { Messages: messages = [] } = await this.sqs.send(
      new ReceiveMessageCommand({
        QueueUrl: queueUrl,
        MaxNumberOfMessages: most,
        MessageAttributeNames: ["All"],
        MessageSystemAttributeNames: ["All"],
      }),
    );
    return messages.map((message) => recordOf(message, SOURCE));
  }

  /** Takes done messages off the queue and puts the others back, to be delivered again at once. */
  async settle(records: readonly SQSRecord[], { failed }: Pick<Delivery, "failed">): Promise<void> {
    await this.release(records.filter(({ messageId }) => failed.has(messageId)));
    await this.acknowledge(records.filter(({ messageId }) => !failed.has(messageId)));
  }

  /** Sends a message once more that was delivered before. */
  async resend({ body, messageAttributes }: SQSRecord): Promise<void> {
    const attributes = Object.entries(messageAttributes).map(([name, { dataType, stringValue }]) => [
      name,
      { DataType: dataType, StringValue: stringValue },
    ]);
    await this.sqs.send(
      new SendMessageCommand({
        QueueUrl: this.queue.queueUrl,
        MessageBody: body,
        MessageAttributes: Object.fromEntries(attributes),
      }),
    );
  }

  async acknowledge(records: readonly SQSRecord[]): Promise<void> {
    if (records.length === 0) return;
    this.acknowledged += records.length;
    await this.sqs.send(
      new DeleteMessageBatchCommand({
        QueueUrl: this.queue.queueUrl,
        Entries: records.map(({ receiptHandle }, index) => ({
          Id: String(index),
          ReceiptHandle: receiptHandle,
        })),
      }),
    );
  }

  async release(records: readonly SQSRecord[]): Promise<void> {
    if (records.length === 0) return;
    await this.sqs.send(
      new ChangeMessageVisibilityBatchCommand({
        QueueUrl: this.queue.queueUrl,
        Entries: records.map(({ receiptHandle }, index) => ({
          Id: String(index),
          ReceiptHandle: receiptHandle,
          VisibilityTimeout: 0,
        })),
      }),
    );
  }
}
