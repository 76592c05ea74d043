/** Parses messages of the dead-letter queue and builds their replays. */

import type { Message, MessageAttributeValue } from "@aws-sdk/client-sqs";
import { parseJsonObject } from "#shared/contract/message.ts";
import {
  type Attributes,
  ERROR_ATTRIBUTES,
  type ForwardedMessage,
  forwardedEntry,
  MAX_ATTRIBUTES,
  REPLAYS_ATTRIBUTE,
} from "#shared/queue/attributes.ts";
import type { QueueEntry } from "#shared/queue/batch-sender.ts";

export interface DeadLetter extends ForwardedMessage {
  readonly id: string;
  /** The receipt handle of this delivery, for deleting the message or making it visible again. */
  readonly handle: string;
  readonly attributes: Attributes;
  /**
   * When the message was sent, in milliseconds since the epoch. The redrive policy keeps the original time. For a message
   * that Sluice dead-lettered, it is the time of dead-lettering.
   */
  readonly sentAt: number | undefined;
  /** Undefined if the redrive policy moved the message here, after too many failed deliveries. */
  readonly errorCode: string | undefined;
  readonly replays: number;
  /** How often the queue has delivered the message, this time included; undefined if the queue does not say. */
  readonly receiveCount: number | undefined;
}

const WHOLE = /^\d{1,15}$/;

/** Undefined if the message has no id or no receipt handle. */
export function parseDeadLetter(message: Message): DeadLetter | undefined {
  const { MessageId: id, ReceiptHandle: handle, Body: body = "", MessageAttributes = {} } = message;
  if (id === undefined || handle === undefined) return undefined;
  const { SentTimestamp: sentAt, MessageGroupId: group, AWSTraceHeader: trace } = message.Attributes ?? {};
  const { ApproximateReceiveCount: receives } = message.Attributes ?? {};
  return {
    id,
    handle,
    body,
    attributes: MessageAttributes,
    group,
    trace,
    sentAt: sentAt !== undefined && WHOLE.test(sentAt) ? Number(sentAt) : undefined,
    errorCode: MessageAttributes.error_code?.StringValue,
    replays: readReplays(MessageAttributes[REPLAYS_ATTRIBUTE]),
    receiveCount: receives !== undefined && WHOLE.test(receives) ? Number(receives) : undefined,
  };
}

/** Whether the message has error attributes, which a replay removes. */
export function hasErrorAttributes({ attributes }: DeadLetter): boolean {
  return ERROR_ATTRIBUTES.some((name) => name in attributes);
}

/** The `flow_id` in the body; undefined if the body is not JSON or has none. */
export function flowIdOf({ body }: DeadLetter): string | undefined {
  const flow = parseJsonObject(body)?.flow_id;
  return typeof flow === "string" ? flow : undefined;
}

/**
 * The queue entry that replays a message: same body, attributes and group, without the error attributes, and with
 * `replays` increased by one. A message with ten other attributes has no room for `replays` and is sent without it.
 */
export function replayEntry(message: DeadLetter): QueueEntry {
  const errorAttributes: readonly string[] = ERROR_ATTRIBUTES;
  const attributes: Record<string, MessageAttributeValue> = {};
  for (const [name, value] of Object.entries(message.attributes)) {
    if (errorAttributes.includes(name)) continue;
    attributes[name] = attributeToSend(value);
  }
  if (REPLAYS_ATTRIBUTE in attributes || Object.keys(attributes).length < MAX_ATTRIBUTES) {
    attributes[REPLAYS_ATTRIBUTE] = { DataType: "Number", StringValue: String(message.replays + 1) };
  }
  return forwardedEntry(message, attributes);
}

/** Drops the list values, which SQS returns empty but does not accept. */
function attributeToSend({
  DataType,
  StringValue,
  BinaryValue,
}: MessageAttributeValue): MessageAttributeValue {
  return {
    DataType,
    ...(StringValue === undefined ? {} : { StringValue }),
    ...(BinaryValue === undefined ? {} : { BinaryValue }),
  };
}

function readReplays(attribute: MessageAttributeValue | undefined): number {
  const text = attribute?.StringValue ?? "";
  return WHOLE.test(text) ? Number(text) : 0;
}
