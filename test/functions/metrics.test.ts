import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import { describe, expect, it, vi } from "vitest";
import { recordOf } from "#local/event.ts";
import { FunctionProcess } from "#local/function-process.ts";
import { DIMENSION, METRICS, METRICS_BY_FUNCTION, NAMESPACE, unitOf } from "#shared/runtime/telemetry.ts";
import { family } from "#test/support/dispatch.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { FunctionLogs, type LogLine } from "#test/support/function-logs.ts";
import { MINUTE_MS, SERVER_KINDS, useReconcilerServers } from "#test/support/reconcile.ts";

type Service = keyof typeof METRICS_BY_FUNCTION;

const SOURCE = { queueArn: "arn:aws:sqs:us-east-1:000000000000:completions", region: "us-east-1" };

/** Checks the CloudWatch format, names and units of a line of metrics, and returns its values. */
function readMetrics(service: Service, line: LogLine): Record<string, unknown> {
  const known: readonly string[] = METRICS_BY_FUNCTION[service];
  const named = Object.values(METRICS).filter((name) => name in line);
  expect(line).toMatchObject({
    _aws: {
      Timestamp: expect.any(Number),
      CloudWatchMetrics: [
        {
          Namespace: NAMESPACE,
          Dimensions: [[DIMENSION]],
          Metrics: expect.arrayContaining(named.map((Name) => ({ Name, Unit: unitOf(Name) }))),
        },
      ],
    },
    [DIMENSION]: service,
  });
  // The line has no metric that `telemetry.ts` does not list for the function.
  const rest = Object.keys(line).filter((name) => !known.includes(name));
  expect(rest.sort()).toEqual(["_aws", DIMENSION].sort());
  return Object.fromEntries(named.map((name) => [name, line[name]]));
}

describe.each(SERVER_KINDS)("the metrics of the built functions (%s)", (kind) => {
  const servers = useReconcilerServers(kind);
  const logs = new FunctionLogs();

  function start(
    name: "dispatch" | "reconcile" | "redrive",
    environment: Readonly<Record<string, string>> = {},
  ): FunctionProcess {
    logs.clear();
    const { queue, address } = servers();
    return new FunctionProcess({
      functionName: name,
      bundle: fileURLToPath(new URL(`../../dist/${name}/index.mjs`, import.meta.url)),
      environment: {
        ...queue.queue.environment,
        VALKEY_URL: address.url.href,
        VALKEY_CLUSTER_MODE: String(address.cluster),
        COMPLETIONS_QUEUE_URL: queue.queue.queueUrl,
        DEAD_LETTER_QUEUE_URL: queue.queue.deadLetterQueueUrl,
        FLOW_PARTITIONS: "65536",
        ...environment,
      },
      timeoutMs: 30_000,
      onOutput: logs.take,
    });
  }

  it("dispatch emits one line per invocation, with the maximum depth and latency of that invocation", async () => {
    const fixture = new FlowFixture(servers().valkey);
    const { parent } = await family(fixture, 3);
    await fixture.finish(parent, "failed");
    const record = (id: string, depth: number) =>
      recordOf(
        {
          MessageId: randomUUID(),
          Body: JSON.stringify({ execution_id: id, flow_id: fixture.flow.id, outcome: "failed" }),
          MessageAttributes: { depth: { DataType: "Number", StringValue: String(depth) } },
        },
        SOURCE,
      );
    const running = await fixture.member();
    const malformed = { ...record(parent.id, 0), body: "{" };
    await using fn = start("dispatch");
    await fn.invoke({
      Records: [
        record(parent.id, 7),
        record(running.id, 2),
        record(fixture.newExecution().id, 0),
        record(fixture.newExecution().id, 51),
        malformed,
      ],
    });
    await fn.invoke({ Records: [record(parent.id, 1)] });
    await fn.invoke({ Records: [] });
    const [first, second, third, ...more] = logs.metrics.map((line) => readMetrics("dispatch", line));
    expect(more).toEqual([]);
    expect(first).toEqual({
      CompletionsDispatched: 1,
      MessagesFailed: 1,
      MessagesMalformed: 1,
      MessagesDeadLettered: 1,
      DepthLimitReached: 1,
      RecordNotTerminal: 1,
      EdgesImpossible: 3,
      ChildrenSkipped: 3,
      CascadesPublished: 3,
      CascadeDepth: 7,
      ValkeyLatency: expect.any(Number),
    });
    expect(first?.ValkeyLatency).toBeGreaterThan(0);
    expect(second).toEqual({
      CompletionsDispatched: 1,
      EdgesAlreadyResolved: 3,
      CascadeDepth: 1,
      ValkeyLatency: expect.any(Number),
    });
    expect(third).toEqual({ CompletionsDispatched: 0 });
    await servers().queue.drain();
    await servers().queue.drain(servers().queue.queue.deadLetterQueueUrl);
  });

  it("dispatch emits one line for an event of 10,000 records", async () => {
    const malformed = recordOf({ Body: "{" }, SOURCE);
    const Records = Array.from({ length: 10_000 }, (_, number) => ({
      ...malformed,
      messageId: `m${number}`,
    }));
    await using fn = start("dispatch", { DEAD_LETTER_QUEUE_URL: "", POWERTOOLS_LOG_LEVEL: "critical" });
    await fn.invoke({ Records });
    await fn.invoke({ Records: Records.slice(0, 2) });
    // The response may arrive before the last output.
    await vi.waitFor(() => expect(logs.metrics.length).toBeGreaterThanOrEqual(2));
    const [first, second, ...more] = logs.metrics.map((line) => readMetrics("dispatch", line));
    expect(more).toEqual([]);
    expect(first).toEqual({ CompletionsDispatched: 0, MessagesFailed: 10_000, MessagesMalformed: 10_000 });
    expect(second).toEqual({ CompletionsDispatched: 0, MessagesFailed: 2, MessagesMalformed: 2 });
    expect(logs.lines).toEqual([]);
  });

  it("reconcile emits one line per run", async () => {
    const flow = await servers().submit("up>child", "other>child");
    await flow.end("up", "failed", MINUTE_MS);
    await using fn = start("reconcile");
    await fn.invoke({});
    const [first, ...more] = logs.metrics.map((line) => readMetrics("reconcile", line));
    expect(more).toEqual([]);
    expect(Object.keys(first ?? {}).sort()).toEqual([...METRICS_BY_FUNCTION.reconcile].sort());
    expect(first).toMatchObject({ ExecutionsScanned: 1, CompletionsRepaired: 1, IndexesUnread: 0 });
    expect(first?.ValkeyLatency).toBeGreaterThan(0);
    await flow.fixture.read("del", flow.fixture.index.lane(flow.fixture.lane).blockedDependencies);
    await servers().queue.drain();
  });

  it("redrive emits no metrics", async () => {
    await using fn = start("redrive");
    await fn.invoke({ all: true });
    expect(logs.lines.length).toBeGreaterThan(0);
    expect(logs.metrics).toEqual([]);
  });
});

describe("METRICS_BY_FUNCTION", () => {
  it("lists every metric, and no metric of a function twice", () => {
    expect(new Set(Object.values(METRICS_BY_FUNCTION).flat())).toEqual(new Set(Object.values(METRICS)));
    for (const names of Object.values(METRICS_BY_FUNCTION)) expect(new Set(names).size).toBe(names.length);
  });
});
