import type { MessageAttributeValue } from "@aws-sdk/client-sqs";
import { isObject } from "#shared/contract/message.ts";
import { pairResults } from "#shared/contract/results.ts";
import { describeError, messageOf, PublishError, type SluiceError } from "#shared/errors.ts";
import {
  type Attributes,
  acceptedText,
  type ERROR_ATTRIBUTES,
  forwardedEntry,
  MAX_ATTRIBUTES,
  stringAttribute,
} from "#shared/queue/attributes.ts";
import type { BatchSender, QueueEntry, SendResult } from "#shared/queue/batch-sender.ts";

const MAX_MESSAGE_BYTES = 1_024;
const MAX_CODE_BYTES = 128;
const UNKNOWN = "unknown";

export interface DeadLetter {
  /** An entry of the event's records. It may have any shape. */
  readonly record: unknown;
  readonly error: SluiceError;
  readonly failedAt: Date;
}

/**
 * Sends messages to the dead-letter queue: one result per letter, in order. Never rejects.
 *
 * Body, attributes and message group stay as they are. Three String attributes are added: `error_code`, `error_message`
 * (at most 1 KB of UTF-8) and `failed_at` (ISO 8601). They replace the reason of an earlier failure.
 *
 * Malformed attributes are left out, because SQS would refuse them. A record without a body is sent as JSON.
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

/** The entry of a letter, or why it cannot be sent. A letter that cannot be read fails no other letter. */
function entryFor(letter: DeadLetter): QueueEntry | PublishError {
  try {
    return readEntry(letter);
  } catch (error) {
    return new PublishError(`the message cannot be dead-lettered: ${messageOf(error)}`, "refused");
  }
}

function readEntry(letter: DeadLetter): QueueEntry | PublishError {
  const record = isObject(letter.record) ? letter.record : {};
  const attributes = { ...attributesOf(record.messageAttributes), ...reasonOf(letter) };
  const count = Object.keys(attributes).length;
  if (count > MAX_ATTRIBUTES) {
    return new PublishError(
      `the message has ${count} attributes with the reason of its failure, and SQS accepts ${MAX_ATTRIBUTES}`,
      "refused",
    );
  }
  const { MessageGroupId: group, AWSTraceHeader: trace } = isObject(record.attributes)
    ? record.attributes
    : {};
  return forwardedEntry(
    {
      body: isText(record.body)
        ? acceptedText(record.body)
        : acceptedText(JSON.stringify(letter.record ?? null)),
      group: isText(group) && GROUP.test(group) ? group : undefined,
      trace: isText(trace) ? acceptedText(trace) : undefined,
    },
    attributes,
  );
}

/** SQS accepts letters, digits and punctuation. */
const GROUP = /^[!-~]{1,128}$/;
const ATTRIBUTE_NAME = /^(?!aws\.|amazon\.|\.)[\w.-]{1,256}$/i;
const DATA_TYPE = /^(String|Number|Binary)(\.|$)/;

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

function attributesOf(attributes: unknown): Attributes {
  const entries = Object.entries(isObject(attributes) ? attributes : {});
  return Object.fromEntries(
    entries.flatMap(([name, value]) => {
      const attribute = ATTRIBUTE_NAME.test(name) ? attributeOf(value) : undefined;
      return attribute === undefined ? [] : [[name, attribute]];
    }),
  );
}

/** Returns an attribute as SQS takes it, or undefined if SQS cannot have delivered it. */
function attributeOf(attribute: unknown): MessageAttributeValue | undefined {
  const { dataType, stringValue, binaryValue } = isObject(attribute) ? attribute : {};
  const kind = isText(dataType) ? DATA_TYPE.exec(dataType)?.[1] : undefined;
  if (!isText(dataType) || kind === undefined) return undefined;
  if (kind !== "Binary") {
    return isText(stringValue) ? { DataType: dataType, StringValue: acceptedText(stringValue) } : undefined;
  }
  // Lambda encodes binary values as base64.
  const bytes = isText(binaryValue) ? Buffer.from(binaryValue, "base64") : Buffer.alloc(0);
  return bytes.length > 0 ? { DataType: dataType, BinaryValue: bytes } : undefined;
}

function isText(value: unknown): value is string {
  return typeof value === "string" && value !== "";
}
