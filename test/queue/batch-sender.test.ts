import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { BatchSender } from "#shared/queue/batch-sender.ts";
import { queueClient } from "#shared/queue/client.ts";
import { QueueProbe } from "#test/support/dispatch.ts";
import { FaultyQueue, type SendFault } from "#test/support/faulty-queue.ts";

const ALL = (): boolean => true;

describe("BatchSender, with the functions' own client", () => {
  let queue: QueueProbe;
  let faulty: FaultyQueue;
  const before = { ...process.env };

  beforeAll(async () => {
    queue = await QueueProbe.start();
    faulty = await FaultyQueue.before(queue.queue.endpoint);
    Object.assign(process.env, {
      AWS_ENDPOINT_URL: faulty.endpoint,
      AWS_REGION: "us-east-1",
      AWS_ACCESS_KEY_ID: "local",
      AWS_SECRET_ACCESS_KEY: "local",
    });
  });
  afterAll(async () => {
    process.env = before;
    await faulty[Symbol.asyncDispose]();
    await queue[Symbol.asyncDispose]();
  });

  /** Sends one message through a queue with a fault. */
  async function send(decide: (call: number) => SendFault, deadlineMs?: number) {
    faulty.decide = decide;
    faulty.calls = 0;
    const client = queueClient();
    try {
      // The SDK sends to the host that the queue's URL names.
      const url = new URL(new URL(queue.queue.queueUrl).pathname, faulty.endpoint).href;
      const [result] = await new BatchSender(client, url).send([{ MessageBody: "{}" }], deadlineMs);
      return { result, calls: faulty.calls, arrived: (await queue.drain()).length };
    } finally {
      client.destroy();
    }
  }

  it.each([
    ["a lost answer", { kind: "reply_lost" }, 1],
    ["a 503", { kind: "http_error", status: 503 }, 0],
    ["a 500", { kind: "http_error", status: 500 }, 0],
  ] as const)("%s is unknown, and the request is made once", async (_, fault, arrived) => {
    expect(await send(() => fault)).toMatchObject({
      result: { ok: false, error: { outcome: "unknown", retryable: true } },
      calls: 1,
      arrived,
    });
  });

  it.each([
    ["an entry that SQS always refuses", { kind: "failed_entries", ids: ALL }, 4],
    ["an entry that is the sender's fault", { kind: "failed_entries", ids: ALL, senderError: true }, 1],
    ["a 400", { kind: "http_error", status: 400, type: "InvalidParameterValue" }, 1],
    ["a 403", { kind: "http_error", status: 403, type: "AccessDenied" }, 1],
    ["throttling", { kind: "http_error", status: 400, type: "RequestThrottled" }, 4],
  ] as const)("%s is refused", async (_, fault, calls) => {
    expect(await send(() => fault)).toMatchObject({
      result: { ok: false, error: { outcome: "refused" } },
      calls,
      arrived: 0,
    });
  });

  it("an entry that SQS refuses twice is accepted at the third attempt", async () => {
    const answer = await send((call) => (call < 3 ? { kind: "failed_entries", ids: ALL } : { kind: "none" }));
    expect(answer).toEqual({ result: { ok: true }, calls: 3, arrived: 1 });
  });

  it("an entry that makes SQS refuse the whole request fails no other entry", async () => {
    const url = new URL(new URL(queue.queue.queueUrl).pathname, faulty.endpoint).href;
    const client = queueClient();
    faulty.decide = () => ({ kind: "none" });
    faulty.calls = 0;
    faulty.intercept = async (_, body) =>
      body.includes("poison")
        ? {
            status: 400,
            body: { __type: "com.amazonaws.sqs#InvalidParameterValue", message: "made to fail" },
          }
        : undefined;
    try {
      const bodies = ["a", "poison", "b"];
      const results = await new BatchSender(client, url).send(bodies.map((MessageBody) => ({ MessageBody })));
      expect(results).toMatchObject([
        { ok: true },
        { ok: false, error: { outcome: "refused" } },
        { ok: true },
      ]);
      expect((await queue.drain()).map(({ Body }) => Body).sort()).toEqual(["a", "b"]);
      expect(faulty.calls).toBe(2);
    } finally {
      faulty.intercept = async () => undefined;
      client.destroy();
    }
  });

  it("a queue that cannot be reached is refused: nothing left this process", async () => {
    const gone = await FaultyQueue.before(queue.queue.endpoint);
    const client = gone.client();
    await gone.close();
    const [result] = await new BatchSender(client, queue.queue.queueUrl).send([{ MessageBody: "{}" }]);
    expect(result).toMatchObject({ ok: false, error: { outcome: "refused" } });
    client.destroy();
  });

  it("takes a fractional deadline, and refuses what is past it without a request", async () => {
    expect(await send(() => ({ kind: "none" }), Date.now() + 5_000.5)).toMatchObject({
      result: { ok: true },
    });
    expect(await send(() => ({ kind: "none" }), Date.now() - 0.5)).toMatchObject({
      result: { ok: false, error: { outcome: "refused" } },
      calls: 0,
    });
  });
});
