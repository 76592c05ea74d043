import type { Message, MessageAttributeValue } from "@aws-sdk/client-sqs";
import type { SQSMessageAttribute, SQSRecord } from "aws-lambda";

/** The queue that the records of an event name as their source. */
export interface EventSource {
  readonly queueArn: string;
  readonly region: string;
}

/** Converts a message from ReceiveMessage to the record that Lambda passes to a function. */
export function recordOf(message: Message, source: EventSource): SQSRecord {
  const system = message.Attributes ?? {};
  return {
    messageId: message.MessageId ?? "",
    receiptHandle: message.ReceiptHandle ?? "",
    body: message.Body ?? "",
    attributes: {
      ...system,
      ApproximateReceiveCount: system.ApproximateReceiveCount ?? "",
      SentTimestamp: system.SentTimestamp ?? "",
      SenderId: system.SenderId ?? "",
      ApproximateFirstReceiveTimestamp: system.ApproximateFirstReceiveTimestamp ?? "",
    },
    messageAttributes: Object.fromEntries(
      Object.entries(message.MessageAttributes ?? {}).map(([name, value]) => [name, attributeOf(value)]),
    ),
    md5OfBody: message.MD5OfBody ?? "",
    eventSource: "aws:sqs",
    eventSourceARN: source.queueArn,
    awsRegion: source.region,
  };
}

function attributeOf(value: MessageAttributeValue): SQSMessageAttribute {
  return {
    ...(value.StringValue === undefined ? {} : { stringValue: value.StringValue }),
    ...(value.BinaryValue === undefined
      ? {}
      : { binaryValue: Buffer.from(value.BinaryValue).toString("base64") }),
    stringListValues: [],
    binaryListValues: [],
    dataType: value.DataType ?? "String",
  };
}

/** The result of a batch, read from the function's response. */
export type BatchResult =
  | { readonly kind: "partial"; readonly failed: ReadonlySet<string> }
  | { readonly kind: "all_failed"; readonly reason: string };

/**
 * Reads a function's response as Lambda does with ReportBatchItemFailures. No list, null or an empty list mean success.
 * An identifier that is empty, missing or not in the batch fails the whole batch.
 */
export function parseBatchResponse(response: unknown, messageIds: ReadonlySet<string>): BatchResult {
  const failures = isObject(response) ? response.batchItemFailures : undefined;
  if (failures === undefined || failures === null) return { kind: "partial", failed: new Set() };
  if (!Array.isArray(failures)) return allFailed("batchItemFailures is not a list");
  const failed = new Set<string>();
  for (const failure of failures as readonly unknown[]) {
    const identifier = isObject(failure) ? failure.itemIdentifier : undefined;
    if (typeof identifier !== "string" || !messageIds.has(identifier)) {
      return allFailed(`batchItemFailures names ${JSON.stringify(identifier)}, which is not in the batch`);
    }
    failed.add(identifier);
  }
  return { kind: "partial", failed };
}

function allFailed(reason: string): BatchResult {
  return { kind: "all_failed", reason };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
