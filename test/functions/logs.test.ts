import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import { SendMessageCommand } from "@aws-sdk/client-sqs";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { recordOf } from "#local/event.ts";
import { FunctionProcess } from "#local/function-process.ts";
import { Poller } from "#local/poller.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { QueueProbe } from "#test/support/dispatch.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { FunctionLogs } from "#test/support/function-logs.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

const BUNDLE = fileURLToPath(new URL("../../dist/dispatch/index.mjs", import.meta.url));
const TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const SOURCE = { queueArn: "arn:aws:sqs:us-east-1:000000000000:completions", region: "us-east-1" };

/** A diamond with one more execution below it. The root has failed. */
async function failedDiamond(
  fixture: FlowFixture,
): Promise<Record<"root" | "a" | "b" | "c" | "d", ExecKeys>> {
  const [root, a, b, c, d] = [
    await fixture.member(),
    await fixture.member(),
    await fixture.member(),
    await fixture.member(),
    await fixture.member(),
  ];
  for (const [from, to] of [
    [root, a],
    [root, b],
    [a, c],
    [b, c],
    [c, d],
  ] as const)
    await fixture.edge(from, to);
  await fixture.finish(root, "failed");
  return { root, a, b, c, d };
}

describe.each(DEPLOYMENTS)("the log of the dispatch function ($name)", ({ address, connect }) => {
  let probe: QueueProbe;
  const valkey = connect();
  const logs = new FunctionLogs();
  beforeAll(async () => {
    probe = await QueueProbe.start();
  });
  beforeEach(() => logs.clear());
  afterAll(async () => {
    valkey.close();
    await probe[Symbol.asyncDispose]();
  });

  const start = (environment: Record<string, string> = {}) =>
    new FunctionProcess({
      functionName: "dispatch",
      bundle: BUNDLE,
      environment: {
        ...probe.queue.environment,
        VALKEY_URL: address.url.href,
        VALKEY_CLUSTER_MODE: String(address.cluster),
        COMPLETIONS_QUEUE_URL: probe.queue.queueUrl,
        FLOW_PARTITIONS: "65536",
        ...environment,
      },
      timeoutMs: 20_000,
      onOutput: logs.take,
    });
  const completionOf = (fixture: FlowFixture, { id }: ExecKeys, traceparent: string) => ({
    MessageBody: JSON.stringify({ execution_id: id, flow_id: fixture.flow.id, outcome: "failed" }),
    MessageAttributes: { traceparent: { DataType: "String", StringValue: traceparent } },
  });

  it("a filter on the root finds every message of one cascade, and no other message", async () => {
    const [one, other] = [new FlowFixture(valkey), new FlowFixture(valkey)];
    const diamonds = [await failedDiamond(one), await failedDiamond(other)] as const;
    for (const entry of [
      completionOf(one, diamonds[0].root, TRACE),
      completionOf(other, diamonds[1].root, "not-a-trace"),
    ]) {
      await probe.client.send(new SendMessageCommand({ QueueUrl: probe.queue.queueUrl, ...entry }));
    }
    await using fn = start();
    const handled: string[] = [];
    const poller = new Poller({
      client: probe.client,
      queueUrl: probe.queue.queueUrl,
      environments: [
        {
          invoke: (event) => {
            handled.push(...event.Records.map(({ messageId }) => messageId));
            return fn.invoke(event);
          },
        },
      ],
      onError: (error) => handled.push(error),
    });
    poller.start();
    await vi.waitFor(() => expect(poller.counts.done).toBe(10), { timeout: 20_000 });
    await poller.stop();

    const shown = diamonds.map(({ root }) => logs.lines.filter((line) => line.root === root.id));
    for (const [index, fixture] of [one, other].entries()) {
      const { root, a, b, c, d } = diamonds[index] ?? diamonds[0];
      const lines = shown[index] ?? [];
      expect(lines.map(({ execution_id, depth }) => `${depth} ${execution_id}`).sort()).toEqual(
        [`0 ${root.id}`, `1 ${a.id}`, `1 ${b.id}`, `2 ${c.id}`, `3 ${d.id}`].sort(),
      );
      for (const line of lines) {
        expect(line).toMatchObject({
          level: "INFO",
          message: "message processed",
          service: "sluice-dispatch",
          flow_id: fixture.flow.id,
          timestamp: expect.any(String),
        });
      }
    }
    const ids = shown.flat().map(({ message_id }) => message_id);
    expect([...ids].sort()).toEqual([...handled].sort());
    // A valid traceparent is passed on unchanged through the cascade; an invalid one is dropped.
    expect(shown.map((lines) => lines.map(({ traceparent }) => traceparent))).toEqual([
      new Array(5).fill(TRACE),
      new Array(5).fill(undefined),
    ]);
  });

  it("a filter on the root also finds failed messages and warnings", async () => {
    const fixture = new FlowFixture(valkey);
    const [root, running, absent] = [fixture.newExecution(), await fixture.member(), fixture.newExecution()];
    const records = [running, absent].map(({ id }) =>
      recordOf(
        {
          MessageId: randomUUID(),
          Body: JSON.stringify({ execution_id: id, flow_id: fixture.flow.id, outcome: "skipped" }),
          Attributes: { ApproximateReceiveCount: "3" },
          MessageAttributes: {
            depth: { DataType: "Number", StringValue: "4" },
            root: { DataType: "String", StringValue: root.id },
            traceparent: { DataType: "String", StringValue: TRACE },
          },
        },
        SOURCE,
      ),
    );
    await using fn = start();
    await fn.invoke({ Records: records });
    const linesOfRoot = () => logs.lines.filter((line) => line.root === root.id);
    // The response may arrive before the last output.
    await vi.waitFor(() => expect(linesOfRoot()).toHaveLength(3), 10_000);
    const shown = linesOfRoot();
    const common = { flow_id: fixture.flow.id, depth: 4, traceparent: TRACE };
    expect(shown).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ ...common, level: "WARN", execution_id: running.id }),
        expect.objectContaining({
          ...common,
          level: "INFO",
          execution_id: running.id,
          message_id: records[0]?.messageId,
        }),
        expect.objectContaining({
          ...common,
          level: "ERROR",
          execution_id: absent.id,
          message_id: records[1]?.messageId,
          receive_count: 3,
        }),
      ]),
    );
  });

  it("does not log processed messages if POWERTOOLS_LOG_LEVEL is warn", async () => {
    const fixture = new FlowFixture(valkey);
    const { root } = await failedDiamond(fixture);
    const { MessageBody: Body } = completionOf(fixture, root, TRACE);
    await using fn = start({ POWERTOOLS_LOG_LEVEL: "warn" });
    await fn.invoke({ Records: [recordOf({ MessageId: randomUUID(), Body }, SOURCE)] });
    // The response may arrive before the last output.
    await vi.waitFor(() => expect(logs.metrics).toHaveLength(1), 10_000);
    expect(logs.lines.filter((line) => line.message_id !== undefined)).toEqual([]);
    await probe.drain();
  });
});
