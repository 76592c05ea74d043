import { describe, expect, test } from "vitest";
import { parseBatchResponse, recordOf } from "#local/event.ts";

const SOURCE = { queueArn: "arn:aws:sqs:us-east-1:000000000000:completions", region: "us-east-1" };
const IDS = new Set(["a", "b"]);

test("a record has the field names of Lambda", () => {
  const record = recordOf(
    {
      MessageId: "m",
      ReceiptHandle: "r",
      Body: "{}",
      MD5OfBody: "5",
      Attributes: { ApproximateReceiveCount: "2", SentTimestamp: "1" },
      MessageAttributes: {
        depth: { DataType: "Number", StringValue: "3" },
        raw: { DataType: "Binary", BinaryValue: new Uint8Array([1, 2]) },
      },
    },
    SOURCE,
  );
  expect(record).toMatchObject({
    messageId: "m",
    receiptHandle: "r",
    body: "{}",
    md5OfBody: "5",
    eventSource: "aws:sqs",
    eventSourceARN: SOURCE.queueArn,
    awsRegion: "us-east-1",
    attributes: { ApproximateReceiveCount: "2", SentTimestamp: "1" },
    messageAttributes: {
      depth: { dataType: "Number", stringValue: "3" },
      raw: { dataType: "Binary", binaryValue: "AQI=" },
    },
  });
});

describe("a function's response", () => {
  test.each([
    ["nothing", undefined],
    ["null", null],
    ["a text", "done"],
    ["no list", {}],
    ["a null list", { batchItemFailures: null }],
    ["an empty list", { batchItemFailures: [] }],
  ])("%s: everything succeeded", (_, answer) => {
    expect(parseBatchResponse(answer, IDS)).toEqual({ kind: "partial", failed: new Set() });
  });

  test("a list: the named messages failed, the others succeeded", () => {
    const answer = { batchItemFailures: [{ itemIdentifier: "b" }, { itemIdentifier: "b" }] };
    expect(parseBatchResponse(answer, IDS)).toEqual({ kind: "partial", failed: new Set(["b"]) });
  });

  test.each([
    ["an unknown identifier", [{ itemIdentifier: "a" }, { itemIdentifier: "c" }]],
    ["an empty identifier", [{ itemIdentifier: "" }]],
    ["a null identifier", [{ itemIdentifier: null }]],
    ["no identifier", [{}]],
    ["something else than an object", ["a"]],
    ["something else than a list", "a"],
  ])("%s: the whole batch failed", (_, batchItemFailures) => {
    expect(parseBatchResponse({ batchItemFailures }, IDS).kind).toBe("all_failed");
  });
});
