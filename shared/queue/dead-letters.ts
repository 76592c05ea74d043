import type { MessageAttributeValue } from "@aws-sdk/client-sqs";
import type { SQSMessageAttributes, SQSRecord } from "aws-lambda";
import { pairResults } from "#shared/contract/results.ts";
import { describeError, PublishError, type SluiceError } from "#shared/errors.ts";
import {
  type Attributes,
  type ERROR_ATTRIBUTES,
  forwardedEntry,
  MAX_ATTRIBUTES,
  stringAttribute,
} from "#shared/queue/attributes.ts";
import type { BatchSender, QueueEntry, SendResult } from "#shared/queue/batch-sender.ts";

const MAX_MESSAGE_BYTES = 1_024;
const MAX_CODE_BYTES = 128;
const UNKNOWN = "unknown";

/** The parts of an SQS record that a dead letter keeps. */
export type DeadRecord = Pick<SQSRecord, "body" | "messageAttributes" | "attributes">;

export interface DeadLetter {
  readonly record: DeadRecord;
  readonly error: SluiceError;
  readonly failedAt: Date;
}

/**
 * Sends messages to the dead-letter queue: one result per letter, in order. Never rejects.
 *
 * Body, attributes and message group stay as they are. Three String attributes are added: `error_code`, `error_message`
 * (at most 1 KB of UTF-8) and `failed_at` (ISO 8601). They replace the reason of an earlier failure.
 *
 * A message whose result is not `ok` must not be acknowledged: the queue's redrive policy keeps it. That includes a
 * message with more than seven attributes: there is no room for three more, since SQS accepts ten.
 */
export async function sendToDeadLetterQueue(
  sender: Pick<BatchSender, "send">,
  letters: readonly DeadLetter[],
  deadlineMs?: number,
): Promise<SendResult[]> {
  const prepared = letters.map((letter) => ({ letter, entry: entryFor(letter) }));
  const sendable = prepared.filter(({ entry }) => !(entry instanceof PublishError));
  const sent = await sender.send(
    sendable.flatMap(({ entry }) => (entry instanceof PublishError ? [] : [entry])),
    deadlineMs,
  );
  const results = new Map(
    pairResults(sendable, sent, (): SendResult => ({ ok: false, error: NO_RESULT })).map(
      ({ item, result }) => [item, result],
    ),
  );
  return prepared.map((one): SendResult => {
    if (one.entry instanceof PublishError) return { ok: false, error: one.entry };
    return results.get(one) ?? { ok: false, error: NO_RESULT };
  });
}

const NO_RESULT = new PublishError("the dead-letter queue returned no result for the message");

/** The entry of a letter, or why it cannot be sent. */
function entryFor(letter: DeadLetter): QueueEntry | PublishError {
  const attributes = { ...attributesOf(letter.record.messageAttributes), ...reasonOf(letter) };
  const count = Object.keys(attributes).length;
  if (count > MAX_ATTRIBUTES) {
    return new PublishError(
      `the message has ${count} attributes with the reason of its failure, and SQS accepts ${MAX_ATTRIBUTES}`,
      "refused",
    );
  }
  const { body, attributes: system } = letter.record;
  const { MessageGroupId: group, AWSTraceHeader: trace } = system;
  return forwardedEntry({ body, group, trace }, attributes);
}

function reasonOf({
  error,
  failedAt,
}: DeadLetter): Record<(typeof ERROR_ATTRIBUTES)[number], MessageAttributeValue> {
  // A refusal's code may carry a detail after a colon, which a filter by code would not match.
  const code = error.code.split(":", 1)[0] ?? "";
  return {
    error_code: stringAttribute(code === "" ? UNKNOWN : code, MAX_CODE_BYTES),
    error_message: stringAttribute(describeError(error), MAX_MESSAGE_BYTES),
    failed_at: stringAttribute(failedAt.toISOString(), MAX_MESSAGE_BYTES),
  };
}

/** Lambda encodes binary values as base64. */
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
