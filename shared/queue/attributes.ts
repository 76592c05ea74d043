/** The message attributes that Sluice adds to dead letters and replayed messages, and the rules of SQS for them. */

import type { MessageAttributeValue } from "@aws-sdk/client-sqs";
import type { QueueEntry } from "#shared/queue/batch-sender.ts";

/** The reason of a dead letter: added when the message is dead-lettered, removed when it is replayed. */
export const ERROR_ATTRIBUTES = ["error_code", "error_message", "failed_at"] as const;
/** How often the message was replayed; a Number. */
export const REPLAYS_ATTRIBUTE = "replays";
/** SQS accepts at most 10 message attributes. */
export const MAX_ATTRIBUTES = 10;

export type Attributes = Readonly<Record<string, MessageAttributeValue>>;

/** Characters that SQS rejects in bodies and attributes: those that XML 1.0 does not allow. */
const FORBIDDEN = /[^\t\n\r\u{20}-\u{D7FF}\u{E000}-\u{FFFD}\u{10000}-\u{10FFFF}]/gu;
const REPLACEMENT = "\ufffd";

/** Replaces the characters that SQS rejects. */
export function acceptedText(text: string): string {
  return text.replace(FORBIDDEN, REPLACEMENT);
}

/**
 * A String attribute of at most `maxBytes` bytes of UTF-8. Characters that SQS rejects are replaced, and no character is
 * split. `text` must not be empty.
 */
export function stringAttribute(text: string, maxBytes: number): MessageAttributeValue {
  const bytes = Buffer.from(acceptedText(text));
  let end = Math.min(maxBytes, bytes.length);
  // A byte 10xxxxxx continues a character that begins before it.
  while (end < bytes.length && end > 0 && ((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1;
  return { DataType: "String", StringValue: bytes.toString("utf8", 0, end) };
}

/** A message without its attributes. `trace` is the X-Ray header, the one system attribute that a sender can set. */
export interface ForwardedMessage {
  readonly body: string;
  readonly group: string | undefined;
  readonly trace: string | undefined;
}

/** The entry that sends a message from one queue to another, unchanged except for its attributes. */
export function forwardedEntry({ body, group, trace }: ForwardedMessage, attributes: Attributes): QueueEntry {
  return {
    MessageBody: body,
    MessageAttributes: attributes,
    ...(group === undefined ? {} : { MessageGroupId: group }),
    ...(trace === undefined
      ? {}
      : { MessageSystemAttributes: { AWSTraceHeader: { DataType: "String", StringValue: trace } } }),
  };
}
