/** Messages that no retry can help: on to the dead-letter queue, with the reason. */

import type { MessageAttributeValue } from "@aws-sdk/client-sqs";
import type { SQSMessageAttributes, SQSRecord } from "aws-lambda";
import { describeError, PublishError, type SluiceError } from "#shared/errors.ts";
import {
  type Attributes,
  type ERROR_ATTRIBUTES,
  MAX_ATTRIBUTES,
  sentOn,
  stringAttribute,
} from "#shared/queue/attributes.ts";
import type { BatchSender, QueueEntry, SendResult } from "#shared/queue/batch-sender.ts";

const MAX_MESSAGE_BYTES = 1_024;
const MAX_CODE_BYTES = 128;
const UNKNOWN = "unknown";

/** What of an SQS record goes to the dead-letter queue. */
export type DeadRecord = Pick<SQSRecord, "body" | "messageAttributes" | "attributes">;

export interface DeadLetter {
  readonly record: DeadRecord;
  readonly error: SluiceError;
  readonly failedAt: Date;
}

/**
 * Sends messages to the dead-letter queue: body, attributes and message group as they came, and three String
 * attributes added, `error_code`, `error_message` (at most 1 KB of UTF-8) and `failed_at` (ISO 8601). A message
 * that came back with reasons of an earlier failure gets this one's in their place.
 *
 * Results are in the letters' order; never rejects. What is not `ok` must not be acknowledged: the redrive policy
 * keeps it. That includes a message which has no room for three attributes more, SQS allowing ten.
 */
export async function sendToDeadLetterQueue(
  sender: Pick<BatchSender, "send">,
  letters: readonly DeadLetter[],
  deadlineMs?: number,
): Promise<SendResult[]> {
  const results: SendResult[] = [];
  const entries: QueueEntry[] = [];
  const positions: number[] = [];
  for (const [position, letter] of letters.entries()) {
    const attributes = { ...attributesOf(letter.record.messageAttributes), ...reasonOf(letter) };
    const count = Object.keys(attributes).length;
    if (count > MAX_ATTRIBUTES) {
      const error = `with the reason the message would have ${count} attributes, and SQS takes ${MAX_ATTRIBUTES}`;
      results[position] = { ok: false, error: new PublishError(error) };
    } else {
      const { body, attributes: system } = letter.record;
      const { MessageGroupId: group, AWSTraceHeader: trace } = system;
      entries.push(sentOn({ body, group, trace }, attributes));
      positions.push(position);
    }
  }
  const sent = await sender.send(entries, deadlineMs);
  for (const [index, position] of positions.entries()) {
    results[position] = sent[index] ?? { ok: false, error: new PublishError("the message was not sent") };
  }
  return results;
}

function reasonOf({
  error,
  failedAt,
}: DeadLetter): Record<(typeof ERROR_ATTRIBUTES)[number], MessageAttributeValue> {
  // What stands behind a colon in a refusal's code is its detail, and would keep a filter from finding it.
  const code = error.code.split(":", 1)[0] ?? "";
  return {
    error_code: stringAttribute(code === "" ? UNKNOWN : code, MAX_CODE_BYTES),
    error_message: stringAttribute(describeError(error), MAX_MESSAGE_BYTES),
    failed_at: stringAttribute(failedAt.toISOString(), MAX_MESSAGE_BYTES),
  };
}

/** Lambda hands binary values over in base64. */
function attributesOf(attributes: SQSMessageAttributes): Attributes {
  return Object.fromEntries(
    Object.entries(attributes).map(([name, { dataType, stringValue, binaryValue }]) => [
      name,
      {
        DataType: dataType,
        ...(stringValue === undefined ? {} : { StringValue: stringValue }),
        ...(binaryValue === undefined ? {} : { BinaryValue: Buffer.from(binaryValue, "base64") }),
      },
    ]),
  );
}
