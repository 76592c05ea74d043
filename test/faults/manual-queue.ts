/**
 * A queue that the harness polls by hand, without timers. Returning a message at once stands for the end of its
 * visibility timeout.
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

/** The result of one delivery. */
export interface Delivery {
  readonly failed: ReadonlySet<string>;
  /** Why the whole batch failed; undefined if it did not. */
  readonly reason: string | undefined;
}

export class ManualQueue {
  readonly queue: LocalQueue;
  readonly sqs: SQSClient;
  /** The number of acknowledged messages. */
  acknowledged = 0;

  constructor(queue: LocalQueue) {
    this.queue = queue;
    this.sqs = queue.client();
  }

  /** Sets `maxReceiveCount` of the queue. */
  async setMaxReceives(max: number): Promise<void> {
    await this.sqs.send(
      new SetQueueAttributesCommand({
        QueueUrl: this.queue.queueUrl,
        Attributes: {
          RedrivePolicy: JSON.stringify({
            deadLetterTargetArn: "arn:aws:sqs:us-east-1:000000000000:completions-dead-letters",
            maxReceiveCount: max,
          }),
        },
      }),
    );
  }

  /** Receives up to `max` messages, without waiting for any. */
  async receive(max: number, queueUrl = this.queue.queueUrl): Promise<SQSRecord[]> {
    const { Messages: messages = [] } = await this.sqs.send(
      new ReceiveMessageCommand({
        QueueUrl: queueUrl,
        MaxNumberOfMessages: max,
        MessageAttributeNames: ["All"],
        MessageSystemAttributeNames: ["All"],
      }),
    );
    return messages.map((message) => recordOf(message, SOURCE));
  }

  /** Deletes the processed messages and returns the failed ones, which are redelivered at once. */
  async settle(
    records: readonly SQSRecord[],
    { failed }: Pick<Delivery, "failed">,
    queueUrl = this.queue.queueUrl,
  ): Promise<void> {
    await this.release(
      records.filter(({ messageId }) => failed.has(messageId)),
      queueUrl,
    );
    await this.acknowledge(
      records.filter(({ messageId }) => !failed.has(messageId)),
      queueUrl,
    );
  }

  /** Sends a delivered message again. */
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

  async acknowledge(records: readonly SQSRecord[], queueUrl = this.queue.queueUrl): Promise<void> {
    if (records.length === 0) return;
    this.acknowledged += records.length;
    await this.sqs.send(
      new DeleteMessageBatchCommand({
        QueueUrl: queueUrl,
        Entries: records.map(({ receiptHandle }, index) => ({
          Id: String(index),
          ReceiptHandle: receiptHandle,
        })),
      }),
    );
  }

  async release(records: readonly SQSRecord[], queueUrl = this.queue.queueUrl): Promise<void> {
    if (records.length === 0) return;
    await this.sqs.send(
      new ChangeMessageVisibilityBatchCommand({
        QueueUrl: queueUrl,
        Entries: records.map(({ receiptHandle }, index) => ({
          Id: String(index),
          ReceiptHandle: receiptHandle,
          VisibilityTimeout: 0,
        })),
      }),
    );
  }
}
