import { DeleteMessageCommand, ReceiveMessageCommand, SendMessageBatchCommand } from "@aws-sdk/client-sqs";
import { expect, test } from "vitest";
import { startQueue } from "#local/queue.ts";

const EMPTY = { visible: 0, inFlight: 0, delayed: 0 };

test("what the stack needs of SQS: batches, groups on a standard queue, Number attributes, long polling", async () => {
  await using queue = await startQueue({ visibilityTimeoutSeconds: 30 });
  const client = queue.client();
  const waiting = client.send(
    new ReceiveMessageCommand({
      QueueUrl: queue.queueUrl,
      MaxNumberOfMessages: 10,
      WaitTimeSeconds: 20,
      MessageAttributeNames: ["All"],
      MessageSystemAttributeNames: ["All"],
    }),
  );
  const sent = await client.send(
    new SendMessageBatchCommand({
      QueueUrl: queue.queueUrl,
      Entries: [
        {
          Id: "0",
          MessageBody: "body",
          MessageGroupId: "flow",
          MessageAttributes: { depth: { DataType: "Number", StringValue: "7" } },
        },
      ],
    }),
  );
  expect(sent.Successful).toHaveLength(1);
  const [message] = (await waiting).Messages ?? [];
  expect(message?.Body).toBe("body");
  expect(message?.MessageAttributes?.depth).toMatchObject({ DataType: "Number", StringValue: "7" });
  expect(message?.Attributes?.ApproximateReceiveCount).toBe("1");
  expect(await queue.counts(queue.queueUrl)).toEqual({ ...EMPTY, inFlight: 1 });
  await client.send(
    new DeleteMessageCommand({ QueueUrl: queue.queueUrl, ReceiptHandle: message?.ReceiptHandle }),
  );
  expect(await queue.counts(queue.queueUrl)).toEqual(EMPTY);
  client.destroy();
});

test("a message that is delivered five times and never deleted goes to the dead-letter queue", async () => {
  await using queue = await startQueue({ visibilityTimeoutSeconds: 0 });
  const client = queue.client();
  const entry = { Id: "0", MessageBody: "poison" };
  await client.send(new SendMessageBatchCommand({ QueueUrl: queue.queueUrl, Entries: [entry] }));
  let deliveries = 0;
  while ((await queue.counts(queue.deadLetterQueueUrl)).visible === 0) {
    const { Messages } = await client.send(new ReceiveMessageCommand({ QueueUrl: queue.queueUrl }));
    deliveries += Messages?.length ?? 0;
    expect(deliveries).toBeLessThanOrEqual(5);
  }
  expect(deliveries).toBe(5);
  expect(await queue.counts(queue.queueUrl)).toEqual(EMPTY);
  client.destroy();
});

test("it listens on loopback only, and stops with a long poll under way", async () => {
  const queue = await startQueue({ visibilityTimeoutSeconds: 30 });
  expect(new URL(queue.endpoint).hostname).toBe("127.0.0.1");
  const client = queue.client();
  const poll = client
    .send(new ReceiveMessageCommand({ QueueUrl: queue.queueUrl, WaitTimeSeconds: 20 }))
    .then(() => "ended")
    .catch(() => "ended");
  await queue.counts(queue.queueUrl);
  const startedAt = performance.now();
  await queue.stop();
  client.destroy();
  expect(await poll).toBe("ended");
  expect(performance.now() - startedAt).toBeLessThan(10_000);
});
