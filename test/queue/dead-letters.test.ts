import type { SQSRecord } from "aws-lambda";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { recordOf } from "#local/event.ts";
import {
  ConfigurationError,
  MalformedMessageError,
  ProtocolError,
  RefusedError,
  type SluiceError,
} from "#shared/errors.ts";
import { BatchSender } from "#shared/queue/batch-sender.ts";
import { sendToDeadLetterQueue } from "#shared/queue/dead-letters.ts";
import { DeadLetterBench, errorAttributes, FLOW, number, text } from "#test/support/dead-letters.ts";

const FAILED_AT = new Date("2026-11-23T05:06:07.089Z");

function record(body: string, messageAttributes: SQSRecord["messageAttributes"] = {}): object {
  return {
    body,
    messageAttributes,
    attributes: {
      ApproximateReceiveCount: "1",
      SentTimestamp: "0",
      SenderId: "tests",
      ApproximateFirstReceiveTimestamp: "0",
      MessageGroupId: FLOW,
      AWSTraceHeader: "Root=1-2-3",
    },
  };
}

function attribute(value: string): SQSRecord["messageAttributes"][string] {
  return { dataType: "String", stringValue: value };
}

describe("sendToDeadLetterQueue", () => {
  let bench: DeadLetterBench;
  const sent: string[] = [];
  beforeAll(async () => {
    bench = await DeadLetterBench.start();
    bench.proxy.intercept = async (operation, body) => {
      if (operation === "SendMessageBatch") sent.push(body);
      return undefined;
    };
  });
  afterAll(() => bench[Symbol.asyncDispose]());
  beforeEach(async () => {
    bench.proxy.decide = () => ({ kind: "none" });
    bench.proxy.calls = 0;
    sent.length = 0;
    await bench.drain(bench.queue.deadLetterQueueUrl);
  });

  const send = (...letters: readonly { record: unknown; error: SluiceError }[]) =>
    sendToDeadLetterQueue(
      new BatchSender(bench.proxy.client(), bench.queue.deadLetterQueueUrl),
      letters.map((letter) => ({ ...letter, failedAt: FAILED_AT })),
    );
  const letters = () => bench.drain(bench.queue.deadLetterQueueUrl);

  it("sends the body, the attributes and the group unchanged, with the reason", async () => {
    const body = `{not json: "żółw 語 ➔"} ${"x".repeat(250_000)}`;
    const blob = { dataType: "Binary", binaryValue: Buffer.from([0, 255, 128, 10]).toString("base64") };
    const error = new MalformedMessageError("not a completion event", { cause: new Error("at column 1") });
    const depth = { dataType: "Number", stringValue: "-7" };
    expect(await send({ record: record(body, { depth, blob }), error })).toEqual([{ ok: true }]);
    const [letter] = await letters();
    expect(letter?.Body).toBe(body);
    expect(letter?.MessageAttributes).toEqual({
      depth: number(-7),
      blob: { DataType: "Binary", BinaryValue: new Uint8Array([0, 255, 128, 10]) },
      error_code: text("malformed_message"),
      error_message: text("MalformedMessageError: not a completion event: at column 1"),
      failed_at: text("2026-11-23T05:06:07.089Z"),
    });
    // The emulator drops both on a standard queue, so the test checks the request.
    expect(JSON.parse(sent[0] ?? "")).toMatchObject({
      Entries: [
        { MessageGroupId: FLOW, MessageSystemAttributes: { AWSTraceHeader: { StringValue: "Root=1-2-3" } } },
      ],
    });
  });

  it("a dead letter that fails again keeps its attributes and gets the new reason", async () => {
    await send({ record: record("a"), error: new ProtocolError("first") });
    const [letter] = await letters();
    if (letter === undefined) throw new Error("no letter");
    const again = recordOf(letter, { queueArn: "arn", region: "us-east-1" });
    await send({ record: again, error: new ConfigurationError(["second"]) });
    expect((await letters())[0]?.MessageAttributes).toEqual({
      ...errorAttributes("invalid_configuration"),
      error_message: text("ConfigurationError: second"),
      failed_at: text(FAILED_AT.toISOString()),
    });
  });

  it.each([
    ["ASCII", "x".repeat(3_000), 1_024],
    ["two bytes each", "ż".repeat(3_000), 1_023],
    ["three bytes each", "語".repeat(3_000), 1_024],
    ["four bytes each", "🐢".repeat(3_000), 1_024],
  ])("truncates the error message to 1 KB between characters (%s)", async (_, message, maxBytes) => {
    await send({ record: record("a"), error: new ProtocolError(message) });
    const kept = (await letters())[0]?.MessageAttributes?.error_message?.StringValue ?? "";
    const whole = `ProtocolError: ${message}`;
    expect(whole.startsWith(kept)).toBe(true);
    expect(kept).not.toContain("\ufffd");
    expect(Buffer.byteLength(kept)).toBeLessThanOrEqual(1_024);
    expect(Buffer.byteLength(kept)).toBeGreaterThan(maxBytes - 4);
  });

  it("replaces characters that SQS does not allow in the reason", async () => {
    await send({ record: record("a"), error: new ProtocolError("a\u0000b\ud800c\uffff") });
    expect((await letters())[0]?.MessageAttributes?.error_message).toEqual(
      text("ProtocolError: a\ufffdb\ufffdc\ufffd"),
    );
  });

  it.each([
    ["invariant_violation", "invariant_violation"],
    ["already_member_of_different_flow:x", "already_member_of_different_flow"],
    ["", "unknown"],
  ])("sends the refusal code %j as %s", async (code, expected) => {
    await send({ record: record("a"), error: new RefusedError("ff_resolve_dependency", code, []) });
    expect((await letters())[0]?.MessageAttributes?.error_code).toEqual(text(expected));
  });

  it("does not send a message without room for the reason, and sends the others", async () => {
    const full = Object.fromEntries(Array.from({ length: 8 }, (_, index) => [`a${index}`, attribute("x")]));
    const { a7: _, ...seven } = full;
    const error = new ProtocolError("x");
    const results = await send(
      { record: record("full", full), error },
      { record: record("seven", seven), error },
      { record: record("none"), error },
    );
    expect(results.map(({ ok }) => ok)).toEqual([false, true, true]);
    expect(results[0]).toMatchObject({ error: { name: "PublishError", message: /11 attributes/ } });
    const found = await letters();
    expect(found.map(({ Body }) => Body).sort()).toEqual(["none", "seven"]);
    expect(Object.keys(found.find(({ Body }) => Body === "seven")?.MessageAttributes ?? {})).toHaveLength(10);
  });

  it("returns an error for each message that the queue refused", async () => {
    const error = new ProtocolError("x");
    bench.proxy.decide = () => ({ kind: "failed_entries", ids: (id) => id === "1", senderError: true });
    const results = await send(
      { record: record("a"), error },
      { record: record("b"), error },
      { record: record("c"), error },
    );
    expect(results.map(({ ok }) => ok)).toEqual([true, false, true]);
    expect((await letters()).map(({ Body }) => Body).sort()).toEqual(["a", "c"]);
  });

  it("retries a message that the queue refused because of an internal error", async () => {
    bench.proxy.decide = (call) =>
      call === 1 ? { kind: "failed_entries", ids: () => true } : { kind: "none" };
    expect(await send({ record: record("a"), error: new ProtocolError("x") })).toEqual([{ ok: true }]);
    expect(await letters()).toHaveLength(1);
  });

  it("returns errors and never rejects", async () => {
    bench.proxy.decide = () => ({ kind: "http_error", status: 403 });
    expect(await send({ record: record("a"), error: new ProtocolError("x") })).toMatchObject([{ ok: false }]);
    expect(await send()).toEqual([]);
  });

  it("splits messages into batches by number and by size", async () => {
    const error = new ProtocolError("x");
    const small = await send(...Array.from({ length: 23 }, () => ({ record: record("a"), error })));
    expect(small.every(({ ok }) => ok)).toBe(true);
    expect(bench.proxy.calls).toBe(3);
    const large = record("x".repeat(600_000));
    expect(await send({ record: large, error }, { record: large, error })).toEqual([
      { ok: true },
      { ok: true },
    ]);
    expect(bench.proxy.calls).toBe(5);
  });
});
