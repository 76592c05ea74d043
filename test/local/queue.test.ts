import {
  DeleteMessageCommand,
  GetQueueAttributesCommand,
  ListQueuesCommand,
  ReceiveMessageCommand,
  SendMessageBatchCommand,
} from "@aws-sdk/client-sqs";
import { describe, expect, test } from "vitest";
import { startQueue } from "#local/queue.ts";
import { queueServerFor } from "#local/queue-choice.ts";
import { serverAt, startFauxqs } from "#local/queue-server.ts";
import { ConfigurationError } from "#shared/errors.ts";
import { FaultyQueue } from "#test/support/faulty-queue.ts";
import { QUEUE_IMPLEMENTATIONS } from "#test/support/queue-servers.ts";

const EMPTY = { visible: 0, inFlight: 0, delayed: 0 };
const IGNORE = () => undefined;

test("an external server that refuses RedriveAllowPolicy is used without it, and the description says so", async () => {
  await using running = await startFauxqs();
  await using proxy = await FaultyQueue.before(running.endpoint);
  let type = "InvalidAttributeName";
  proxy.intercept = async (operation, body) =>
    operation === "SetQueueAttributes" && body.includes("RedriveAllowPolicy")
      ? { status: type === "InternalFailure" ? 500 : 400, body: { __type: type, message: "not known" } }
      : undefined;
  const there = async () => serverAt(new URL(proxy.endpoint), {});
  await using queue = await startQueue({ visibilityTimeoutSeconds: 30, server: there });
  expect(queue.description).toMatch(/, without RedriveAllowPolicy, which it refuses \(not known\)$/);
  type = "InternalFailure";
  await expect(startQueue({ visibilityTimeoutSeconds: 30, server: there })).rejects.toThrow(
    ConfigurationError,
  );
});

describe.each(QUEUE_IMPLEMENTATIONS)("$name", ({ start: server }) => {
  test("supports batches, message groups on a standard queue, Number attributes and counts", async () => {
    await using queue = await startQueue({ visibilityTimeoutSeconds: 30, server });
    const client = queue.client();
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
    const { Messages: messages } = await client.send(
      new ReceiveMessageCommand({
        QueueUrl: queue.queueUrl,
        MaxNumberOfMessages: 10,
        WaitTimeSeconds: queue.longPollSeconds,
        MessageAttributeNames: ["All"],
      }),
    );
    const [message] = messages ?? [];
    expect(message?.Body).toBe("body");
    expect(message?.MessageAttributes?.depth).toMatchObject({ DataType: "Number", StringValue: "7" });
    expect((await queue.counts(queue.queueUrl)).inFlight).toBe(1);
    await client.send(
      new DeleteMessageCommand({ QueueUrl: queue.queueUrl, ReceiptHandle: message?.ReceiptHandle }),
    );
    expect(await queue.counts(queue.queueUrl)).toEqual(EMPTY);
    client.destroy();
  });

  test("creates both queues with the settings of a deployment", async () => {
    await using queue = await startQueue({ visibilityTimeoutSeconds: 7, server });
    const client = queue.client();
    const attributesOf = async (url: string) => {
      const names = [
        "QueueArn",
        "VisibilityTimeout",
        "MessageRetentionPeriod",
        "SqsManagedSseEnabled",
      ] as const;
      const { Attributes: attributes = {} } = await client.send(
        new GetQueueAttributesCommand({
          QueueUrl: url,
          AttributeNames: [...names, "RedrivePolicy", "RedriveAllowPolicy"],
        }),
      );
      const { RedrivePolicy: redrive = "{}", RedriveAllowPolicy: allow = "{}", ...rest } = attributes;
      const policies: unknown[] = [JSON.parse(redrive), JSON.parse(allow)];
      return { ...rest, policies };
    };
    const completions = await attributesOf(queue.queueUrl);
    const deadLetters = await attributesOf(queue.deadLetterQueueUrl);
    expect(completions).toMatchObject({
      VisibilityTimeout: "7",
      MessageRetentionPeriod: "345600",
      SqsManagedSseEnabled: "true",
      policies: [{ deadLetterTargetArn: deadLetters.QueueArn }, {}],
    });
    expect(Number(Object(completions.policies[0]).maxReceiveCount)).toBe(5);
    expect(deadLetters).toMatchObject({
      MessageRetentionPeriod: "1209600",
      SqsManagedSseEnabled: "true",
      policies: [{}, { redrivePermission: "byQueue", sourceQueueArns: [completions.QueueArn] }],
    });
    client.destroy();
  });

  test("on an external server, the queues have unique names and are deleted at the end", async () => {
    await using running = await server();
    const there = async () => serverAt(new URL(running.endpoint), {});
    const first = await startQueue({ visibilityTimeoutSeconds: 30, server: there });
    const second = await startQueue({ visibilityTimeoutSeconds: 30, server: there });
    const client = first.client();
    const urls = async () => (await client.send(new ListQueuesCommand({}))).QueueUrls ?? [];
    expect(new Set([first.queueUrl, first.deadLetterQueueUrl, second.queueUrl]).size).toBe(3);
    expect(await urls()).toHaveLength(4);
    await first.stop();
    expect(await urls()).toHaveLength(2);
    await second.stop();
    expect(await urls()).toEqual([]);
    client.destroy();
  });

  test("listens on loopback only, and stops during a long poll", async () => {
    const queue = await startQueue({ visibilityTimeoutSeconds: 30, server });
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
});

test("fauxqs: a message goes to the dead-letter queue after five deliveries", async () => {
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

describe("the choice of a queue server", () => {
  const NO_PYTHON = { PYTHON: "/nowhere/python" };

  test("auto: first the endpoint of the AWS SDK's variables", async () => {
    const env = { ...NO_PYTHON, AWS_ENDPOINT_URL: "http://127.0.0.1:1/", AWS_REGION: "eu-central-1" };
    const server = await queueServerFor("auto", IGNORE, env);
    expect(server).toMatchObject({
      endpoint: "http://127.0.0.1:1",
      isExternal: true,
      environment: { AWS_ENDPOINT_URL_SQS: "http://127.0.0.1:1", AWS_REGION: "eu-central-1" },
    });
    const nearer = { ...env, AWS_ENDPOINT_URL_SQS: "http://127.0.0.1:2" };
    expect((await queueServerFor("auto", IGNORE, nearer)).endpoint).toBe("http://127.0.0.1:2");
  });

  test("auto: fauxqs, with a message, if there is neither an endpoint nor Python", async () => {
    const messages: string[] = [];
    await using server = await queueServerFor("auto", (line) => messages.push(line), NO_PYTHON);
    expect(server.name).toBe("fauxqs");
    expect(messages).toEqual([expect.stringMatching(/using fauxqs: .*Python 3\.13/)]);
  });

  test("an external server gets the caller's credentials, or placeholders if there are none", () => {
    const env = { AWS_ACCESS_KEY_ID: "id", AWS_SECRET_ACCESS_KEY: "secret", AWS_SESSION_TOKEN: "token" };
    expect(serverAt(new URL("https://sqs.example"), env).environment).toMatchObject(env);
    const { environment } = serverAt(new URL("https://sqs.example"), { AWS_SESSION_TOKEN: "token" });
    expect(environment).toMatchObject({ AWS_ACCESS_KEY_ID: "local", AWS_SECRET_ACCESS_KEY: "local" });
    expect(environment).not.toHaveProperty("AWS_SESSION_TOKEN");
  });

  test("an error names a server that does not answer", async () => {
    const gone = startQueue({
      visibilityTimeoutSeconds: 30,
      server: async () => serverAt(new URL("http://127.0.0.1:1"), {}),
    });
    await expect(gone).rejects.toThrow(ConfigurationError);
    await expect(gone).rejects.toThrow(/http:\/\/127\.0\.0\.1:1.*ECONNREFUSED/);
  });
});
