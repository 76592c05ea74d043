import { SendMessageBatchCommand } from "@aws-sdk/client-sqs";
import type { SQSEvent } from "aws-lambda";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { FunctionProcess } from "#local/function-process.ts";
import { type ExecutionEnvironment, Poller } from "#local/poller.ts";
import { type LocalQueue, startQueue } from "#local/queue.ts";
import { writeBundle } from "#test/local/fake-function.ts";

let fake: Awaited<ReturnType<typeof writeBundle>>;
beforeAll(async () => {
  fake = await writeBundle();
});
afterAll(async () => {
  await fake[Symbol.asyncDispose]();
});

const EMPTY = { visible: 0, inFlight: 0, delayed: 0 };
const WAIT = { timeout: 20_000, interval: 20 };

async function send(queue: LocalQueue, bodies: readonly string[], depth = 0): Promise<void> {
  const client = queue.client();
  for (let start = 0; start < bodies.length; start += 10) {
    await client.send(
      new SendMessageBatchCommand({
        QueueUrl: queue.queueUrl,
        Entries: bodies.slice(start, start + 10).map((MessageBody, index) => ({
          Id: String(index),
          MessageBody,
          MessageAttributes: { depth: { DataType: "Number", StringValue: String(depth) } },
        })),
      }),
    );
  }
  client.destroy();
}

/** A queue with messages, and a poller, both of which are stopped at the end. */
async function polling(
  bodies: readonly string[],
  environments: readonly ExecutionEnvironment[],
  options: { visibilityTimeoutSeconds?: number; depth?: number } = {},
) {
  const parts = new AsyncDisposableStack();
  const queue = parts.use(
    await startQueue({ visibilityTimeoutSeconds: options.visibilityTimeoutSeconds ?? 30 }),
  );
  const client = parts.adopt(queue.client(), (made) => made.destroy());
  const errors: string[] = [];
  const poller = parts.adopt(
    new Poller({
      client,
      queueUrl: queue.queueUrl,
      environments,
      onError: (error) => errors.push(error),
    }),
    (made) => made.stop(),
  );
  await send(queue, bodies, options.depth);
  poller.start();
  return { queue, poller, errors, [Symbol.asyncDispose]: () => parts.disposeAsync() };
}

function fakeFunction(timeoutMs = 10_000): FunctionProcess {
  return new FunctionProcess({
    functionName: "fake",
    bundle: fake.path,
    environment: {},
    timeoutMs,
    onOutput: () => undefined,
  });
}

describe("a batch", () => {
  test.each(["none", "nothing", "null"])('the response "%s": all messages are deleted', async (word) => {
    await using environment = fakeFunction();
    await using setting = await polling([word, "second"], [environment], { depth: 4 });
    await vi.waitFor(() => expect(setting.poller.counts.done).toBe(2), WAIT);
    expect(await setting.queue.counts(setting.queue.queueUrl)).toEqual(EMPTY);
    expect(setting.poller.counts).toEqual({ messages: 2, deliveries: 2, done: 2, failed: 0, maxDepth: 4 });
    expect(setting.errors).toEqual([]);
  });

  test("one failure: the other messages are deleted", async () => {
    await using environment = fakeFunction();
    await using setting = await polling(["first", "second", "third"], [environment]);
    await vi.waitFor(() => expect(setting.poller.counts.done).toBe(2), WAIT);
    expect(await setting.queue.counts(setting.queue.queueUrl)).toEqual({ ...EMPTY, inFlight: 1 });
    expect(setting.poller.counts).toMatchObject({ failed: 1, deliveries: 3 });
  });

  test.each([
    ["unknown", /names "00000000-0000-0000-0000-000000000000", which is not in the batch/],
    ["empty", /names "", which is not in the batch/],
    ["missing", /which is not in the batch/],
    ["throw", /RangeError: thrown on purpose/],
    ["exit 1", /died with the status 1/],
    ["hang", /did not respond within 700 ms/],
  ])("%s: the whole batch fails", async (word, reason) => {
    await using environment = fakeFunction(700);
    await using setting = await polling([word, "second", "third"], [environment]);
    await vi.waitFor(() => expect(setting.poller.counts.failed).toBe(3), WAIT);
    expect(setting.errors.join()).toMatch(reason);
    await setting.poller.stop();
    expect(setting.poller.counts.done).toBe(0);
    expect(await setting.queue.counts(setting.queue.queueUrl)).toEqual({ ...EMPTY, inFlight: 3 });
  });
});

test("a failed message is redelivered after its visibility timeout, and finally dead-lettered", async () => {
  await using environment = fakeFunction();
  await using setting = await polling(["throw"], [environment], { visibilityTimeoutSeconds: 1 });
  const deadLetters = () => setting.queue.counts(setting.queue.deadLetterQueueUrl);
  await vi.waitFor(async () => expect(await deadLetters()).toEqual({ ...EMPTY, visible: 1 }), WAIT);
  expect(setting.poller.counts).toEqual({ messages: 1, deliveries: 5, done: 0, failed: 5, maxDepth: 0 });
});

/** An environment that holds each event until the test releases it. */
class Held implements ExecutionEnvironment {
  readonly events: SQSEvent[] = [];
  readonly #gate = Promise.withResolvers<void>();

  async invoke(event: SQSEvent): Promise<unknown> {
    this.events.push(event);
    await this.#gate.promise;
    return { batchItemFailures: [] };
  }

  release(): void {
    this.#gate.resolve();
  }
}

test("each environment handles one batch of at most ten at a time, concurrently with the others", async () => {
  const environments = [new Held(), new Held(), new Held()];
  const bodies = Array.from({ length: 45 }, (_, index) => String(index));
  await using setting = await polling(bodies, environments);
  await vi.waitFor(() => expect(environments.map(({ events }) => events.length)).toEqual([1, 1, 1]), WAIT);
  expect(environments.map(({ events }) => events[0]?.Records.length)).toEqual([10, 10, 10]);
  expect(await setting.queue.counts(setting.queue.queueUrl)).toEqual({ ...EMPTY, visible: 15, inFlight: 30 });
  for (const environment of environments) environment.release();
  await vi.waitFor(() => expect(setting.poller.counts.done).toBe(45), WAIT);
  const seen = environments.flatMap(({ events }) =>
    events.flatMap(({ Records }) => Records.map(({ body }) => body)),
  );
  expect(seen.toSorted()).toEqual(bodies.toSorted());
});

test("stop waits for the batch in flight and its deletion, and receives nothing more", async () => {
  const environment = new Held();
  const bodies = Array.from({ length: 11 }, (_, index) => String(index));
  await using setting = await polling(bodies, [environment]);
  await vi.waitFor(() => expect(environment.events).toHaveLength(1), WAIT);
  const stopped = setting.poller.stop();
  expect(setting.poller.counts.done).toBe(0);
  environment.release();
  await stopped;
  expect(setting.poller.counts).toMatchObject({ done: 10, deliveries: 10 });
  expect(await setting.queue.counts(setting.queue.queueUrl)).toEqual({ ...EMPTY, visible: 1 });
});
