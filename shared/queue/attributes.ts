/** The message attributes that Sluice adds to a dead letter and to its replay, and SQS' rules for them. */

import type { MessageAttributeValue } from "@aws-sdk/client-sqs";
import type { QueueEntry } from "#shared/queue/batch-sender.ts";

/** Why a message was given up; added when it is sent to the dead-letter queue, removed when it is replayed. */
export const ERROR_ATTRIBUTES = ["error_code", "error_message", "failed_at"] as const;
/** A Number: how often the message was replayed. */
export const REPLAYS_ATTRIBUTE = "replays";
/** SQS takes no more message attributes. */
export const MAX_ATTRIBUTES = 10;

export type Attributes = Readonly<Record<string, MessageAttributeValue>>;

/** XML 1.0's characters, which is what SQS takes in bodies and attributes. */
const FORBIDDEN = /[^\t\n\r\u{20}-\u{D7FF}\u{E000}-\u{FFFD}\u{10000}-\u{10FFFF}]/gu;
const REPLACEMENT = "\ufffd";

/**
 * A String attribute of at most so many bytes of UTF-8. What SQS would refuse is replaced, and no character is
 * split. `text` must not be empty.
 */
export function stringAttribute(text: string, mostBytes: number): MessageAttributeValue {
  const bytes = Buffer.from(text.replace(FORBIDDEN, REPLACEMENT));
  let end = Math.min(mostBytes, bytes.length);
  // Bytes 10xxxxxx continue a character, which begins before them.
  while (end < bytes.length && end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1;
  return { DataType: "String", StringValue: bytes.toString("utf8", 0, end) };
}

/** What is sent on besides a message's attributes; `trace` is X-Ray's, the one system attribute a sender can set. */
export interface SentOn {
  readonly body: string;
  readonly group: string | undefined;
  readonly trace: string | undefined;
}

/** A message on its way from one queue to another: as it came, but for its attributes. */
export function sentOn({ body, group, trace }: SentOn, attributes: Attributes): QueueEntry {
  return {
    MessageBody: body,
    MessageAttributes: attributes,
    ...(group === undefined ? {} : { MessageGroupId: group }),
    ...(trace === undefined
      ? {}
      : { MessageSystemAttributes: { AWSTraceHeader: { DataType: "String", StringValue: trace } } }),
  };
}
