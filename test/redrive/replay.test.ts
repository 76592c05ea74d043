import { createHash } from "node:crypto";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { ReplayPass } from "#shared/redrive/pass.ts";
import { DeadLetterQueue } from "#shared/redrive/queue.ts";
import { parseRequest } from "#shared/redrive/request.ts";
import { completion, DeadLetterBench, FLOW, number, text } from "#test/support/dead-letters.ts";

const OTHER_FLOW = "11111111-1111-1111-1111-111111111111";
const UNICODE = "żółw 語 ➔ \t\n\r �";
const TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

describe("replay by receive, send and delete", () => {
  let bench: DeadLetterBench;
  beforeAll(async () => {
    bench = await DeadLetterBench.start();
  });
  afterAll(() => bench[Symbol.asyncDispose]());
  beforeEach(async () => {
    bench.proxy.intercept = async () => undefined;
    bench.proxy.decide = () => ({ kind: "none" });
    bench.clock.onPause = () => undefined;
    await bench.drain();
    await bench.drain(bench.queue.deadLetterQueueUrl);
  });

  it("sends body and attributes unchanged, removes the error attributes, and increases replays", async () => {
    const body = UNICODE.repeat(9_000);
    expect(Buffer.byteLength(body)).toBeGreaterThan(200_000);
    const own = {
      depth: number(7),
      root: text(`{fp:24}:${FLOW}`),
      traceparent: text(TRACE),
      blob: { DataType: "Binary.png", BinaryValue: Uint8Array.from([0, 255, 128, 10]) },
    };
    await bench.put({ body, attributes: own, code: "protocol_error", replays: 1 });
    expect(await bench.replay({ all: true })).toMatchObject({ seen: 1, replayed: 1, done: true });
    const [message] = await bench.drain();
    expect(message?.Body).toBe(body);
    const { blob, ...others } = message?.MessageAttributes ?? {};
    expect(others).toEqual({
      depth: number(7),
      root: own.root,
      traceparent: own.traceparent,
      replays: number(2),
    });
    expect(blob?.DataType).toBe("Binary.png");
    expect([...(blob?.BinaryValue ?? [])]).toEqual([0, 255, 128, 10]);
    expect(await bench.visible()).toBe(0);
  });

  it("splits large messages that do not fit into one batch", async () => {
    const body = "x".repeat(250_000);
    await bench.put(...Array(9).fill({ body }));
    expect(await bench.replay({ all: true, rate: 500 })).toMatchObject({ replayed: 9, failed: 0 });
    expect((await bench.drain()).map(({ Body }) => Body === body)).toEqual(Array(9).fill(true));
  });

  it("sends a message with ten attributes without replays", async () => {
    const own = Object.fromEntries(Array.from({ length: 10 }, (_, index) => [`a${index}`, text("x")]));
    await bench.put({ attributes: own });
    expect(await bench.replay({ all: true })).toMatchObject({ replayed: 1 });
    expect((await bench.drain())[0]?.MessageAttributes).toEqual(own);
  });

  it("keeps the message group and the trace header", async () => {
    const bodies: string[] = [];
    await bench.put({});
    bench.proxy.intercept = async (operation, body) => {
      if (operation === "SendMessageBatch") bodies.push(body);
      if (operation !== "ReceiveMessage" || bodies.length > 0) return undefined;
      // The emulator drops the group of a message on a standard queue.
      const message = {
        MessageId: "made-up",
        ReceiptHandle: "made-up",
        Body: "{}",
        MD5OfBody: createHash("md5").update("{}").digest("hex"),
        Attributes: { MessageGroupId: FLOW, SentTimestamp: "1", AWSTraceHeader: "Root=1-2-3" },
      };
      return { status: 200, body: { Messages: [message] } };
    };
    await bench.replay({ all: true, method: "receive" });
    expect(JSON.parse(bodies[0] ?? "")).toMatchObject({
      Entries: [
        {
          MessageGroupId: FLOW,
          MessageSystemAttributes: { AWSTraceHeader: { DataType: "String", StringValue: "Root=1-2-3" } },
        },
      ],
    });
  });

  it.each([
    ["an error code", { error_code: "protocol_error" }, 2],
    ["several error codes", { error_code: ["protocol_error", "invalid_record"] }, 3],
    ["no error code", { error_code: "none" }, 2],
    ["a flow in upper case", { flow: FLOW.toUpperCase() }, 4],
    ["an error code and a flow", { error_code: "protocol_error", flow: FLOW }, 1],
    ["an age that all messages have", { older_than_seconds: 30 }, 5],
    ["an age that no message has", { older_than_seconds: 3_600 }, 0],
    ["a maximum age above all ages", { younger_than_seconds: 3_600 }, 5],
    ["a maximum age below all ages", { younger_than_seconds: 30 }, 0],
  ])("selects by %s and leaves the rest visible", async (_, filter, count) => {
    await bench.put(
      { code: "protocol_error" },
      { code: "protocol_error", body: "not JSON" },
      { code: "invalid_record" },
      {},
      {},
    );
    expect(await bench.replay({ ...filter, dry_run: true })).toMatchObject({
      seen: 5,
      matching: count,
      replayed: 0,
      kept: 5 - count,
      done: true,
    });
    expect(await bench.visible()).toBe(5);
    const totals = { seen: 5, matching: count, replayed: count, kept: 5 - count, failed: 0, over_limit: 0 };
    expect(await bench.replay({ ...filter })).toMatchObject({ ...totals, done: true, ended: "complete" });
    expect(await bench.visible()).toBe(5 - count);
    expect(await bench.drain()).toHaveLength(count);
  });

  it("a body that does not parse matches no flow", async () => {
    await bench.put({ body: "[1]" }, { body: '{"flow_id":7}' }, { body: completion(OTHER_FLOW) });
    expect(await bench.replay({ flow: OTHER_FLOW })).toMatchObject({ seen: 3, replayed: 1, kept: 2 });
  });

  it("a dry run sends nothing and leaves every message visible", async () => {
    await bench.put(...Array(57).fill({}), { replays: 5 });
    expect(await bench.replay({ all: true, dry_run: true })).toMatchObject({
      seen: 58,
      matching: 57,
      over_limit: 1,
      replayed: 0,
      dry_run: true,
    });
    expect(await bench.visible()).toBe(58);
    expect(await bench.drain()).toEqual([]);
  });

  it("leaves a message that was replayed five times, and reports its id", async () => {
    const [, id] = await bench.put({ replays: 4 }, { replays: 5 });
    const report = await bench.replay({ all: true });
    expect(report).toMatchObject({ seen: 2, replayed: 1, over_limit: 1, over_limit_ids: [id] });
    expect(await bench.visible()).toBe(1);
    expect((await bench.drain())[0]?.MessageAttributes?.replays).toEqual(number(5));
  });

  it("leaves messages that are dead-lettered during the pass", async () => {
    await bench.put({}, {});
    const later = { now: () => Date.now() - 3_600_000, pause: () => Promise.resolve() };
    expect(await bench.replay({ all: true }, {}, { clock: later })).toMatchObject({
      seen: 2,
      kept: 2,
      done: true,
    });
    expect(await bench.visible()).toBe(2);
  });

  it("never exceeds the rate, and keeps it up", async () => {
    const sends: { at: number; count: number }[] = [];
    await bench.put(...Array(65).fill({}));
    bench.proxy.intercept = async (operation, body) => {
      const entries: unknown = operation === "SendMessageBatch" && JSON.parse(body).Entries;
      if (Array.isArray(entries)) sends.push({ at: bench.clock.now(), count: entries.length });
      return undefined;
    };
    const startedAt = bench.clock.now();
    expect(await bench.replay({ all: true, rate: 20 })).toMatchObject({ replayed: 65 });
    let total = 0;
    for (const { at, count } of sends) {
      total += count;
      // The messages of a tenth of a second, here two, are sent together.
      expect(total).toBeLessThanOrEqual(((at - startedAt) / 1_000) * 20 + 2);
    }
    expect(total).toBe(65);
    const last = sends.at(-1)?.at ?? 0;
    expect(last - startedAt).toBeGreaterThanOrEqual(((65 - 2) / 20) * 1_000);
    expect(last - startedAt).toBeLessThan((65 / 20) * 1_000 + 100);
  });

  it("stops after the batch in flight, and makes the rest visible", async () => {
    await bench.put(...Array(30).fill({}));
    const stop = new AbortController();
    let pauses = 0;
    bench.clock.onPause = () => {
      pauses += 1;
      if (pauses === 4) stop.abort();
    };
    const report = await bench.replay({ all: true, rate: 5 }, { signal: stop.signal });
    expect(report).toMatchObject({ replayed: 4, seen: 4, done: true, ended: "stopped" });
    expect(await bench.visible()).toBe(26);
    expect(await bench.drain()).toHaveLength(4);
  });

  it("ends a slice before its deadline and continues with the next, seeing each message once", async () => {
    await bench.put(...Array(20).fill({ code: "a" }), ...Array(20).fill({ code: "b" }));
    const event = { error_code: "b", rate: 10 };
    let report = await bench.replay(event, { deadlineMs: bench.clock.now() + 1_050 });
    let slices = 1;
    expect(report).toMatchObject({ done: false, ended: "slice", replayed: 11, kept: 20 });
    while (!report.done) {
      const continuation: unknown = JSON.parse(JSON.stringify(report.continuation));
      report = await bench.replay({ ...event, continuation }, { deadlineMs: bench.clock.now() + 250 });
      slices += 1;
    }
    expect(slices).toBeGreaterThan(3);
    expect(report).toMatchObject({ seen: 40, replayed: 20, kept: 20, ended: "complete" });
    expect(await bench.visible()).toBe(20);
    expect(await bench.drain()).toHaveLength(20);
  });

  it("makes hidden messages visible when it is stopped between two slices", async () => {
    await bench.put(...Array(10).fill({ code: "a" }), {}, {});
    const first = await bench.replay({ error_code: "b" }, { deadlineMs: bench.clock.now() });
    expect(first).toMatchObject({ seen: 0, done: false });
    const kept = await bench.replay({ error_code: "none", rate: 1 }, { deadlineMs: bench.clock.now() + 1 });
    expect(kept).toMatchObject({ done: false, kept: 10, replayed: 1 });
    const { continuation } = kept;
    expect(await bench.replay({ continuation, stop: true })).toMatchObject({ done: true, ended: "stopped" });
    expect(await bench.visible()).toBe(11);
  });

  it("ends at the limit of hidden messages, with a note", async () => {
    await bench.put(...Array(30).fill({ code: "a" }));
    const report = await bench.replay({ error_code: "b" }, {}, { maxHidden: 20 });
    expect(report).toMatchObject({ done: true, ended: "held_limit", kept: 20 });
    expect(report.notes[0]).toContain("limit of 20 hidden messages");
    expect(await bench.visible()).toBe(30);
  });

  it("keeps a message that the queue refuses", async () => {
    const [first] = await bench.put({ body: "first" }, { body: "second" });
    bench.proxy.decide = () => ({
      kind: "failed_entries",
      ids: (_, index) => index === 0,
      senderError: true,
    });
    const report = await bench.replay({ all: true, rate: 100 });
    expect(report).toMatchObject({ seen: 2, replayed: 1, failed: 1, done: true });
    expect(report.notes.join()).toContain(first);
    expect((await bench.drain(bench.queue.deadLetterQueueUrl)).map(({ Body }) => Body)).toEqual(["first"]);
    expect((await bench.drain()).map(({ Body }) => Body)).toEqual(["second"]);
  });

  it("fails if no message is accepted, and leaves every message visible", async () => {
    await bench.put(...Array(30).fill({}));
    bench.proxy.decide = () => ({ kind: "http_error", status: 403 });
    expect(await bench.replay({ all: true, rate: 20 })).toMatchObject({
      ended: "failed",
      done: true,
      replayed: 0,
      failed: 10,
    });
    expect(await bench.visible()).toBe(30);
  });

  it("makes hidden messages visible when receiving fails", async () => {
    await bench.put(...Array(10).fill({ code: "a" }));
    let receives = 0;
    bench.proxy.intercept = async (operation) => {
      if (operation !== "ReceiveMessage") return undefined;
      receives += 1;
      return receives === 1
        ? undefined
        : { status: 403, body: { __type: "AccessDenied", message: "denied" } };
    };
    await expect(bench.replay({ error_code: "b" })).rejects.toMatchObject({ name: "QueueError" });
    expect(await bench.visible()).toBe(10);
  });

  it("replays a message twice if it dies between send and delete", async () => {
    await bench.put({ body: "only message" });
    // After the send, no request of this replay reaches the queue.
    let isDead = false;
    bench.proxy.intercept = async (operation) => {
      if (isDead) return { status: 400, body: { __type: "Gone", message: "the process died" } };
      isDead = operation === "SendMessageBatch";
      return undefined;
    };
    const receiveOptions = { visibilitySeconds: 1, waitSeconds: 0 };
    await expect(
      bench.replay({ all: true, method: "receive" }, {}, { receiveOptions }),
    ).rejects.toMatchObject({
      name: "QueueError",
      message: "receiving from the dead-letter queue failed",
    });
    bench.proxy.intercept = async () => undefined;
    await vi.waitFor(async () => expect(await bench.replay({ all: true })).toMatchObject({ replayed: 1 }), {
      timeout: 10_000,
    });
    expect(await bench.visible()).toBe(0);
    expect((await bench.drain()).map(({ Body }) => Body)).toEqual(["only message", "only message"]);
  });

  it("deletes nothing if the sender returns too few results", async () => {
    await bench.put({ body: "first" }, { body: "second" });
    const { client, config, clock, receiveOptions } = bench.ports();
    const pass = new ReplayPass(
      {
        deadLetters: new DeadLetterQueue(client, config.deadLetterQueueUrl, receiveOptions),
        sender: { send: (entries) => Promise.resolve(entries.slice(1).map(() => ({ ok: true }))) },
        clock,
        maxReplays: 5,
        maxHidden: 100,
        onProgress: () => undefined,
      },
      parseRequest({ all: true, rate: 100 }),
    );
    const signal = new AbortController().signal;
    const report = await pass.run({ deadlineMs: Number.POSITIVE_INFINITY, signal });
    expect(report).toMatchObject({ seen: 2, replayed: 0, failed: 2, done: true });
    expect(report.notes[0]).toContain("returned no result");
    expect(await bench.visible()).toBe(2);
  });

  it("does not resend a message that it could not delete", async () => {
    await bench.put({ body: "only message" });
    let deletes = 0;
    bench.proxy.intercept = async (operation) => {
      if (operation !== "DeleteMessageBatch") return undefined;
      deletes += 1;
      const failed = { Failed: [{ Id: "0", Code: "InternalError", SenderFault: false }], Successful: [] };
      return deletes <= 3 ? { status: 200, body: failed } : undefined;
    };
    // A visibility timeout of 0: the next request of this pass receives the message again.
    const receiveOptions = { visibilitySeconds: 0, waitSeconds: 0 };
    const report = await bench.replay({ all: true, method: "receive" }, {}, { receiveOptions });
    expect(report).toMatchObject({ seen: 1, replayed: 1, failed: 0 });
    expect(report.notes[0]).toContain("could not be deleted");
    expect(await bench.drain()).toHaveLength(1);
  });
});
