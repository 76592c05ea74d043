/** A message of the dead-letter queue: what is read of it, and how it goes back. */

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

export interface DeadMessage extends ForwardedMessage {
  readonly id: string;
  /** Names this delivery of the message, for deleting it or making it visible again. */
  readonly handle: string;
  readonly attributes: Attributes;
  /**
   * When it was sent, in milliseconds since the epoch. The redrive policy keeps a message's own time; a message that
   * was sent to the dead-letter queue at once has the time of that.
   */
  readonly sentAt: number | undefined;
  /** Undefined: the redrive policy brought it here, after too many deliveries. */
  readonly errorCode: string | undefined;
  readonly replays: number;
}

const WHOLE = /^\d{1,15}$/;

/** Undefined for what is no delivery of a message, which SQS does not give. */
export function readDeadMessage(message: Message): DeadMessage | undefined {
  const { MessageId: id, ReceiptHandle: handle, Body: body = "", MessageAttributes = {} } = message;
  if (id === undefined || handle === undefined) return undefined;
  const { SentTimestamp: sentAt, MessageGroupId: group, AWSTraceHeader: trace } = message.Attributes ?? {};
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
  };
}

/** Whether it carries a reason that has to come off when it is replayed. */
export function hasReason({ attributes }: DeadMessage): boolean {
  return ERROR_ATTRIBUTES.some((name) => name in attributes);
}

/** The flow that the body names; undefined where it names none, or is no completion event. */
export function flowOf({ body }: DeadMessage): string | undefined {
  const flow = parseJsonObject(body)?.flow_id;
  return typeof flow === "string" ? flow : undefined;
}

/**
 * The message as it goes back: body, attributes and group as they came, without the reason of its failure, one replay
 * more on its count. Where ten attributes of its own leave no room for the count, it goes without.
 */
export function replayOf(message: DeadMessage): QueueEntry {
  const reasons: readonly string[] = ERROR_ATTRIBUTES;
  const attributes: Record<string, MessageAttributeValue> = {};
  for (const [name, value] of Object.entries(message.attributes)) {
    if (reasons.includes(name)) continue;
    attributes[name] = attributeToSend(value);
  }
  if (REPLAYS_ATTRIBUTE in attributes || Object.keys(attributes).length < MAX_ATTRIBUTES) {
    attributes[REPLAYS_ATTRIBUTE] = { DataType: "Number", StringValue: String(message.replays + 1) };
  }
  return forwardedEntry(message, attributes);
}

/** SQS gives list values, always empty, and refuses them in what is sent. */
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
