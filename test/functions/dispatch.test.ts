import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import { inspect } from "node:util";
import type { SQSBatchResponse, SQSRecord } from "aws-lambda";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { FunctionProcess } from "#local/function-process.ts";
import { startValkey, type ValkeyServer } from "#local/valkey-server.ts";
import { PARTITION_CONFIG_KEY } from "#shared/contract/keys.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { family, QueueProbe, stateOf } from "#test/support/dispatch.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { TcpProxy } from "#test/support/tcp-proxy.ts";
import { connectTo, DEPLOYMENTS } from "#test/support/valkey.ts";

const BUNDLE = fileURLToPath(new URL("../../dist/dispatch/index.mjs", import.meta.url));
const UNKNOWN_LIBRARY = `#!lua name=flowfabric
server.register_function{function_name='ff_version', callback=function() return '19' end, flags={'no-writes'}}
server.register_function{function_name='ff_unknown', callback=function() return 1 end}`;

function recordOf(body: unknown, messageAttributes: SQSRecord["messageAttributes"] = {}): SQSRecord {
  return {
    messageId: randomUUID(),
    receiptHandle: "handle",
    body: typeof body === "string" ? body : JSON.stringify(body),
    attributes: {
      ApproximateReceiveCount: "1",
      SentTimestamp: "0",
      SenderId: "tests",
      ApproximateFirstReceiveTimestamp: "0",
    },
    messageAttributes,
    md5OfBody: "",
    eventSource: "aws:sqs",
    eventSourceARN: "arn:aws:sqs:us-east-1:000000000000:completions",
    awsRegion: "us-east-1",
  };
}

describe("the built dispatch function", () => {
  let queue: QueueProbe;
  /** Not shared with other files: a deployment has one record of the partition count. */
  let server: ValkeyServer;
  let valkey: Valkey;

  beforeAll(async () => {
    queue = await QueueProbe.start();
    server = await startValkey();
    valkey = connectTo({ url: server.url, cluster: false });
  });
  afterAll(async () => {
    valkey.close();
    await server.stop();
    await queue[Symbol.asyncDispose]();
  });

  const output: string[] = [];
  const lines = (): string => output.join("");

  function start(environment: Record<string, string> = {}): FunctionProcess {
    output.length = 0;
    return new FunctionProcess({
      functionName: "dispatch",
      bundle: BUNDLE,
      environment: {
        ...queue.queue.environment,
        VALKEY_URL: server.url.href,
        COMPLETIONS_QUEUE_URL: queue.queue.queueUrl,
        FLOW_PARTITIONS: "65536",
        ...environment,
      },
      timeoutMs: 20_000,
      onOutput: (text) => output.push(text),
    });
  }

  const failedIds = (answer: unknown): string[] =>
    (answer as SQSBatchResponse).batchItemFailures.map(({ itemIdentifier }) => itemIdentifier);

  it.each(DEPLOYMENTS)(
    "dispatches a batch and reports exactly the failed messages ($name)",
    async ({ address, connect }) => {
      const client = connect();
      await using fn = start({ VALKEY_URL: address.url.href, VALKEY_CLUSTER_MODE: String(address.cluster) });
      try {
        const fixture = new FlowFixture(client);
        const good = await family(fixture, 2);
        const bad = await family(fixture, 2);
        await fixture.finish(good.parent, "success");
        await fixture.finish(bad.parent, "failed");
        const body = (id: string) => ({ execution_id: id, flow_id: fixture.flow.id, outcome: "success" });
        const records = [
          recordOf(body(good.parent.id)),
          recordOf("{not json"),
          recordOf(body(bad.parent.id), { depth: { dataType: "Number", stringValue: "2" } }),
          recordOf(body(fixture.newExecution().id)),
          recordOf({ execution_id: good.parent.id }),
        ];
        const answer = await fn.invoke({ Records: records });
        expect(failedIds(answer)).toEqual([records[1]?.messageId, records[3]?.messageId]);
        const states = [...good.children, ...bad.children].map((child) => stateOf(fixture, child));
        expect(await Promise.all(states)).toEqual(["waiting", "waiting", "skipped", "skipped"]);
        expect((await queue.drainEvents()).map(({ depth }) => depth)).toEqual([3, 3]);
        for (const metric of ["EdgesSatisfied", "ChildrenSkipped", "MessagesMalformed", "MessagesFailed"]) {
          expect(lines()).toContain(`"Name":"${metric}"`);
        }
        expect(lines()).toContain(records[3]?.messageId);
      } finally {
        client.close();
      }
    },
  );

  it("sends malformed messages to the dead-letter queue with a reason, and acknowledges them", async () => {
    await using fn = start({ DEAD_LETTER_QUEUE_URL: queue.queue.deadLetterQueueUrl });
    await ensureLibrary(valkey);
    const fixture = new FlowFixture(valkey);
    const { parent } = await family(fixture, 1);
    await fixture.finish(parent, "success");
    const attributes: SQSRecord["messageAttributes"] = {
      depth: { dataType: "Number", stringValue: "1.5" },
      traceparent: { dataType: "String", stringValue: "kept" },
    };
    const body = JSON.stringify({ execution_id: parent.id, flow_id: fixture.flow.id, note: "ünchanged" });
    const records = [recordOf("{not json"), recordOf(body, attributes), recordOf(body)];
    expect(failedIds(await fn.invoke({ Records: records }))).toEqual([]);
    const letters = await queue.drain(queue.queue.deadLetterQueueUrl);
    expect(letters.map(({ Body }) => Body).sort()).toEqual([body, "{not json"].sort());
    const letter = letters.find(({ Body }) => Body === body);
    expect(letter?.MessageAttributes).toMatchObject({
      depth: { DataType: "Number", StringValue: "1.5" },
      traceparent: { DataType: "String", StringValue: "kept" },
      error_code: { DataType: "String", StringValue: "malformed_message" },
      error_message: { DataType: "String", StringValue: expect.stringContaining("depth") },
      failed_at: { DataType: "String", StringValue: expect.stringMatching(/^\d{4}-\d{2}-\d{2}T.*Z$/) },
    });
    expect(lines()).toContain('"Name":"MessagesDeadLettered"');
  });

  it.each([
    ["no dead-letter queue is configured", {}],
    ["it is unreachable", { DEAD_LETTER_QUEUE_URL: "http://127.0.0.1:9/000000000000/nowhere" }],
  ])("reports a malformed message as failed, for the redrive policy, if %s", async (_, environment) => {
    await using fn = start(environment);
    const record = recordOf("{not json");
    expect(failedIds(await fn.invoke({ Records: [record] }))).toEqual([record.messageId]);
    expect(await queue.drain(queue.queue.deadLetterQueueUrl)).toEqual([]);
  });

  it("acknowledges nine good messages beside any malformed record", async () => {
    await using fn = start({ DEAD_LETTER_QUEUE_URL: queue.queue.deadLetterQueueUrl });
    await ensureLibrary(valkey);
    const fixture = new FlowFixture(valkey);
    const { parent } = await family(fixture, 1);
    await fixture.finish(parent, "success");
    const good = { execution_id: parent.id, flow_id: fixture.flow.id };
    const { messageAttributes: _, ...bare } = recordOf("{");
    const nullValue = { depth: { dataType: "Number", stringValue: "1", binaryValue: null } };
    for (const malformed of [
      { ...bare, messageAttributes: nullValue },
      bare,
      { ...bare, messageAttributes: null },
      { ...bare, attributes: null },
      { ...bare, body: null },
      null,
    ]) {
      const records = Array.from({ length: 9 }, () => recordOf(good));
      expect(failedIds(await fn.invoke({ Records: [...records, malformed] }))).toEqual([]);
      expect(await queue.drain(queue.queue.deadLetterQueueUrl)).toHaveLength(1);
    }
  });

  it("takes a bare list of records, as EventBridge Pipes sends it", async () => {
    await using fn = start();
    await ensureLibrary(valkey);
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await family(fixture, 1);
    await fixture.finish(parent, "success");
    const records = [recordOf({ execution_id: parent.id, flow_id: fixture.flow.id }), recordOf("{")];
    expect(failedIds(await fn.invoke(records))).toEqual([records[1]?.messageId]);
    expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(["waiting"]);
  });

  it.each([{}, null, { Records: [{ s3: {} }] }])(
    "refuses %j, which is no SQS event, with the reason",
    async (event) => {
      await using fn = start();
      await expect(fn.invoke(event)).rejects.toThrow(/InvalidRequestError.*the event is not an SQS event: /);
    },
  );

  it("fails to start with an invalid environment, and names every invalid variable", async () => {
    await using fn = start({ VALKEY_URL: "", MAX_CASCADE_DEPTH: "many" });
    const failure = fn.invoke({ Records: [] });
    await expect(failure).rejects.toThrow(/VALKEY_URL is not set/);
    await expect(failure).rejects.toThrow(/MAX_CASCADE_DEPTH is "many"/);
  });

  it("rejects invocations while the recorded partition count differs, and works once it matches", async () => {
    const fixture = new FlowFixture(valkey);
    await using fn = start();
    const event = { Records: [recordOf({ execution_id: fixture.newExecution().id })] };
    await valkey.call("hset", PARTITION_CONFIG_KEY, "num_flow_partitions", "256");
    await expect(fn.invoke(event)).rejects.toThrow(/FLOW_PARTITIONS is 65536.*"256"/);
    await valkey.call("hset", PARTITION_CONFIG_KEY, "num_flow_partitions", "65536");
    expect(failedIds(await fn.invoke(event))).toEqual([]);
    await valkey.call("del", PARTITION_CONFIG_KEY);
  });

  it("warns once if no partition count is recorded", async () => {
    const fixture = new FlowFixture(valkey);
    await using fn = start();
    const event = { Records: [recordOf({ execution_id: fixture.newExecution().id })] };
    await fn.invoke(event);
    await fn.invoke(event);
    expect(lines().split("is not recorded").length - 1).toBe(1);
  });

  it("loads the library if it is missing", async () => {
    await valkey.call("function", "FLUSH", "SYNC");
    await using fn = start();
    const fixture = new FlowFixture(valkey);
    expect(
      failedIds(await fn.invoke({ Records: [recordOf({ execution_id: fixture.newExecution().id })] })),
    ).toEqual([]);
    expect(await valkey.call("fcall", "ff_version", 0)).toBe("5");
  });

  it("rejects a library of an unknown version unless LIBRARY_EDITION is set", async () => {
    await valkey.call("function", "LOAD", "REPLACE", UNKNOWN_LIBRARY);
    const event = { Records: [recordOf({ execution_id: new FlowFixture(valkey).newExecution().id })] };
    {
      await using fn = start();
      await expect(fn.invoke(event)).rejects.toThrow(/version "19".*set LIBRARY_EDITION/);
    }
    await using configured = start({ LIBRARY_EDITION: "11" });
    expect(failedIds(await configured.invoke(event))).toEqual([]);
    expect(await valkey.call("fcall", "ff_version", 0)).toBe("19");
    await valkey.call("function", "FLUSH", "SYNC");
  });

  it("logs and returns no password if the server rejects it", async () => {
    await using guarded = await startValkey({ extraArgs: ["--requirepass", "right"] });
    const url = new URL(guarded.url);
    url.username = "default";
    url.password = "S3cretWrong";
    await using fn = start({ VALKEY_URL: url.href });
    const failure = await fn.invoke({ Records: [] }).catch((error: unknown) => error);
    expect(String(failure)).toMatch(/WRONGPASS|NOAUTH/);
    expect(lines()).toContain("WRONGPASS");
    expect(`${lines()} ${inspect(failure, { depth: null })}`).not.toContain("S3cretWrong");
  });

  it("reports the message as failed or throws while Valkey is unreachable, and recovers afterwards", async () => {
    await using proxy = await TcpProxy.before(server.url);
    await using fn = start({ VALKEY_URL: proxy.url.href });
    await ensureLibrary(valkey);
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await family(fixture, 1);
    await fixture.finish(parent, "success");
    const record = recordOf({ execution_id: parent.id, flow_id: fixture.flow.id });
    expect(failedIds(await fn.invoke({ Records: [] }))).toEqual([]);

    proxy.mode = "refuse";
    proxy.cut();
    // The open connection is dead and a new one cannot be opened: the function throws, or reports the message.
    for (const _ of [1, 2]) {
      const answer = await fn.invoke({ Records: [record] }).catch((error: unknown) => error);
      if (answer instanceof Error) expect(answer.message).toMatch(/Valkey at 127\.0\.0\.1/);
      else expect(failedIds(answer)).toEqual([record.messageId]);
    }
    proxy.mode = "pass";
    expect(failedIds(await fn.invoke({ Records: [record] }))).toEqual([]);
    expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(["waiting"]);
  });
});
