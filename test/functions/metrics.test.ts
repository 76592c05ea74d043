import { randomUUID } from "node:crypto";
import { fileURLToPath } from "node:url";
import { describe, expect, it, vi } from "vitest";
import { recordOf } from "#local/event.ts";
import { FunctionProcess } from "#local/function-process.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import {
  DIMENSION,
  METRICS,
  METRICS_BY_FUNCTION,
  NAMESPACE,
  STAGE_DIMENSION,
  unitOf,
} from "#shared/runtime/telemetry.ts";
import { family } from "#test/support/dispatch.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { FunctionLogs, type LogLine } from "#test/support/function-logs.ts";
import {
  MINUTE_MS,
  type ReconcilerServers,
  SERVER_KINDS,
  useReconcilerServers,
} from "#test/support/reconcile.ts";

type Service = keyof typeof METRICS_BY_FUNCTION;

const STAGE = "canary";
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
          Dimensions: [[DIMENSION, STAGE_DIMENSION]],
          Metrics: expect.arrayContaining(named.map((Name) => ({ Name, Unit: unitOf(Name) }))),
        },
      ],
    },
    [DIMENSION]: service,
    [STAGE_DIMENSION]: STAGE,
  });
  // The line has no metric that `telemetry.ts` does not list for the function.
  const rest = Object.keys(line).filter((name) => !known.includes(name));
  expect(rest.sort()).toEqual(["_aws", DIMENSION, STAGE_DIMENSION].sort());
  return Object.fromEntries(named.map((name) => [name, line[name]]));
}

type Servers = Pick<ReconcilerServers, "queue" | "address">;

function startFunction(
  name: "dispatch" | "reconcile" | "redrive",
  { queue, address }: Servers,
  logs: FunctionLogs,
  environment: Readonly<Record<string, string>> = {},
): FunctionProcess {
  logs.clear();
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
      SLUICE_STAGE: STAGE,
      ...environment,
    },
    timeoutMs: 30_000,
    onOutput: logs.take,
  });
}

/** Waits for the metrics of some invocations: a response may arrive before the last output of its function. */
async function metricLines(logs: FunctionLogs, count: number): Promise<void> {
  await vi.waitFor(() => expect(logs.metrics.length).toBeGreaterThanOrEqual(count), 10_000);
}

function recordFor(fixture: FlowFixture, id: string, depth: number): ReturnType<typeof recordOf> {
  return recordOf(
    {
      MessageId: randomUUID(),
      Body: JSON.stringify({ execution_id: id, flow_id: fixture.flow.id, outcome: "failed" }),
      MessageAttributes: { depth: { DataType: "Number", StringValue: String(depth) } },
    },
    SOURCE,
  );
}

describe.each(SERVER_KINDS)("the metrics of the built functions (%s)", (kind) => {
  const servers = useReconcilerServers(kind);
  const logs = new FunctionLogs();
  const start = (
    name: "dispatch" | "reconcile" | "redrive",
    environment: Readonly<Record<string, string>> = {},
  ): FunctionProcess => startFunction(name, servers(), logs, environment);

  it("dispatch emits one line per invocation, with the maximum depth and latency of that invocation", async () => {
    const fixture = new FlowFixture(servers().valkey);
    const { parent } = await family(fixture, 3);
    await fixture.finish(parent, "failed");
    const record = (id: string, depth: number) => recordFor(fixture, id, depth);
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
    await metricLines(logs, 3);
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
    await metricLines(logs, 2);
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
    await metricLines(logs, 1);
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

describe("the built functions", () => {
  const servers = useReconcilerServers("standalone", 14);
  const logs = new FunctionLogs();

  it("emit every metric", async () => {
    const fixture = servers().fixture();
    const ended = async (outcome: "success" | "failed"): Promise<ExecKeys> => {
      const { parent } = await family(fixture, 1);
      await fixture.finish(parent, outcome);
      return parent;
    };
    const successful = await ended("success");
    const failed = await ended("failed");
    await fixture.read("sadd", fixture.flow.outgoing(successful.id), "not an edge id");
    // A group that is decided by its first upstream, and one whose counters are wrong.
    const upstreams: ExecKeys[] = [];
    for (const size of [2, 1]) {
      const child = await fixture.member();
      await fixture.group(child, { variant: "any_of", onSatisfied: "let_run" });
      for (let number = 0; number < size; number += 1) {
        const upstream = await fixture.member();
        upstreams.push(upstream);
        await fixture.edge(upstream, child);
        await fixture.finish(upstream, "success");
      }
      if (size === 1) await fixture.read("hset", fixture.flow.edgeGroup(child.id), "n", "0");
    }
    // Groups whose other upstream is cancelled. One of them has an invalid record, so that its group stays.
    for (let number = 0; number < 2; number += 1) {
      const child = await fixture.member();
      await fixture.group(child, { variant: "any_of", onSatisfied: "cancel_remaining" });
      const [first, sibling] = [await fixture.member(), await fixture.member()];
      for (const upstream of [first, sibling]) await fixture.edge(upstream, child);
      await fixture.finish(first, "success");
      upstreams.push(first);
      if (number === 1) await fixture.read("hset", sibling.core, "lane_id", "");
    }
    const purged = servers().fixture();
    await purged.read("set", purged.flow.purged, "1");
    const running = await fixture.member();
    // A user that may write every key of an execution except the mark of its published cascade.
    const { url, cluster } = servers().address;
    const keys = [
      "~ff:config:*",
      "~ff:ready:*",
      "~ff:noop:*",
      "~ff:flow:*",
      "~ff:attempt:*",
      "~ff:stream:*",
      "~ff:idx:{*",
    ];
    const allButMarks = ["%R~ff:exec:*", "~ff:exec:*[^e]", "~ff:exec:*[^d]e"];
    const rights = ["on", ">password", ...keys, ...allButMarks, "&*", "+@all"];
    await fixture.read("acl", "setuser", "dispatcher", ...rights);
    const address = new URL(url);
    Object.assign(address, { username: "dispatcher", password: "password" });
    {
      await using fn = startFunction(
        "dispatch",
        { queue: servers().queue, address: { url: address, cluster } },
        logs,
        // Any queue will do: the messages are only counted.
        { READY_QUEUES: JSON.stringify({ [fixture.lane]: servers().queue.queue.deadLetterQueueUrl }) },
      );
      const record = (id: string, depth = 0) => recordFor(fixture, id, depth);
      await fn.invoke({
        Records: [
          ...[successful, failed, ...upstreams, running, fixture.newExecution()].map(({ id }) => record(id)),
          record(fixture.newExecution().id, 51),
          recordFor(purged, purged.newExecution().id, 0),
          { ...record(failed.id), body: "{" },
        ],
      });
      await fn.invoke({ Records: [record(failed.id)] });
      await metricLines(logs, 2);
      const emitted = logs.metrics.flatMap((line) => Object.keys(readMetrics("dispatch", line)));
      expect(new Set(emitted)).toEqual(new Set<string>(METRICS_BY_FUNCTION.dispatch));
    }
    await using fn = startFunction("reconcile", servers(), logs);
    await fn.invoke({});
    await metricLines(logs, 1);
    const emitted = logs.metrics.flatMap((line) => Object.keys(readMetrics("reconcile", line)));
    expect(new Set(emitted)).toEqual(new Set<string>(METRICS_BY_FUNCTION.reconcile));
  });
});

describe("METRICS_BY_FUNCTION", () => {
  it("lists every metric, and no metric of a function twice", () => {
    expect(new Set(Object.values(METRICS_BY_FUNCTION).flat())).toEqual(new Set(Object.values(METRICS)));
    for (const names of Object.values(METRICS_BY_FUNCTION)) expect(new Set(names).size).toBe(names.length);
  });
});
