import { describe, expect, it } from "vitest";
import { QueueError } from "#shared/errors.ts";
import { sweep } from "#shared/reconcile/sweep.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { backdateEnd, MINUTE_MS, SERVER_KINDS, useReconcilerServers } from "#test/support/reconcile.ts";

const names = (prefix: string, count: number): string[] =>
  Array.from({ length: count }, (_, index) => `${prefix}${index}`);

describe.each(SERVER_KINDS)("resending missed completions (%s)", (kind) => {
  const servers = useReconcilerServers(kind);

  it("sends nothing if nothing was missed, and emits its metrics", async () => {
    const flow = await servers().submit("up>left", "up>right");
    const ports = servers().ports([flow]);
    expect(await sweep(ports)).toMatchObject({
      state: "complete",
      scanned: 2,
      repaired: 0,
      promoted: 0,
      unread: 0,
    });
    expect(await servers().drainSent()).toEqual([]);
    expect(ports.telemetry.counts.get(METRICS.completionsRepaired)).toBe(0);
    expect(ports.telemetry.counts.get(METRICS.executionsScanned)).toBe(2);
    expect(ports.telemetry.gauges.get(METRICS.oldestResolvableAge)).toBe(0);
    expect(ports.telemetry.gauges.get(METRICS.sweepDuration)).toBeGreaterThanOrEqual(0);
    expect(ports.telemetry.warnings).toEqual([]);
  });

  it("finds one stuck execution behind a thousand that wait for a running upstream", async () => {
    const flow = await servers().submit(...names("waits", 1_000).map((name) => `open>${name}`), "gone>stuck");
    await flow.end("gone");
    const { blockedDependencies } = flow.fixture.index.lane(flow.fixture.lane);
    // The last of the index, whatever the order of submission.
    await flow.fixture.read("zadd", blockedDependencies, Date.now() + MINUTE_MS, flow.keys("stuck").id);
    const report = await sweep(servers().ports([flow]));
    expect(report).toMatchObject({ state: "complete", repaired: 1 });
    expect(report.scanned).toBeGreaterThanOrEqual(1_001);
    expect(await servers().drainSent()).toEqual([flow.keys("gone").id]);
  });

  it("reads all of a thousand unresolved edges of one child", async () => {
    const ups = names("up", 1_000);
    const flow = await servers().submit(...ups.map((name) => `${name}>child`));
    const edges = await flow.fixture.read("smembers", flow.keys("child").depsUnresolved);
    if (!Array.isArray(edges)) throw new Error("no edges");
    expect(edges).toHaveLength(1_000);
    const last = flow.keys("child").dep(edges.at(-1));
    const upstream = await flow.fixture.read("hget", last, "upstream_execution_id");
    const task = ups.find((name) => flow.keys(name).id === upstream) ?? "";
    await flow.end(task, "failed");
    const ports = servers().ports([flow]);
    expect(await sweep(ports)).toMatchObject({ repaired: 1, scanned: 1 });
    expect(await servers().drainSent()).toEqual([upstream]);
    // The other upstreams have not ended, so the child cannot be released yet.
    expect(ports.telemetry.gauges.get(METRICS.oldestResolvableAge)).toBe(0);
  });

  it("sends one completion per upstream and sweep, however many children wait", async () => {
    const flow = await servers().submit(...names("child", 600).map((name) => `up>${name}`));
    await flow.end("up", "failed");
    const ports = servers().ports([flow]);
    expect(await sweep(ports)).toMatchObject({ repaired: 1, scanned: 600 });
    const [event, ...others] = await servers().queue.drainEvents();
    expect(others).toEqual([]);
    const { id } = flow.keys("up");
    expect(event).toEqual({
      executionId: id,
      flowId: flow.fixture.flow.id,
      depth: 0,
      generation: 0,
      root: id,
      traceparent: undefined,
    });
    const age = ports.telemetry.gauges.get(METRICS.oldestResolvableAge);
    expect(age).toBeGreaterThanOrEqual(60);
    expect(age).toBeLessThan(90);
  });

  it.each([
    ["success", "complete"],
    ["failed", "fail"],
    ["cancelled", "cancel"],
    ["skipped", "skip"],
  ] as const)("sends the outcome of the record (%s)", async (outcome, how) => {
    const flow = await servers().submit("up>child");
    const up = flow.keys("up");
    if (how === "cancel") await flow.fixture.cancel(up);
    else if (how === "skip") {
      const skipped = { lifecycle_phase: "terminal", terminal_outcome: "skipped" };
      await flow.fixture.read("hset", up.core, ...Object.entries(skipped).flat());
    } else await flow.fixture.finish(up, how === "fail" ? "failed" : "success");
    await backdateEnd(flow.fixture, up, MINUTE_MS);
    await sweep(servers().ports([flow]));
    const [message] = await servers().queue.drain();
    expect(JSON.parse(message?.Body ?? "")).toEqual({
      execution_id: up.id,
      flow_id: flow.fixture.flow.id,
      outcome,
    });
  });

  it("sends nothing within the grace period, by the server's clock", async () => {
    const flow = await servers().submit("up>child");
    const wrongClock = { now: () => Date.now() + 3_600_000 };
    await flow.end("up", "success", 29_000);
    expect(await sweep(servers().ports([flow], wrongClock))).toMatchObject({ repaired: 0, scanned: 1 });
    await backdateEnd(flow.fixture, flow.keys("up"), 31_000);
    expect(await sweep(servers().ports([flow], wrongClock))).toMatchObject({ repaired: 1 });
  });

  it.each([
    ["an hour in the future", String(Date.now() + 3_600_000)],
    ["missing", ""],
  ])("treats an implausible end time as past the grace period (%s)", async (_, completedAt) => {
    const flow = await servers().submit("up>child");
    await flow.end("up");
    await flow.fixture.read(
      "hset",
      flow.keys("up").core,
      "completed_at",
      completedAt,
      "last_transition_at",
      "",
    );
    expect(await sweep(servers().ports([flow]))).toMatchObject({ repaired: 1 });
  });

  it.each([
    ["not terminal", { lifecycle_phase: "active", terminal_outcome: "success" }],
    ["the outcome none", { lifecycle_phase: "terminal", terminal_outcome: "none" }],
    ["the outcome empty", { lifecycle_phase: "terminal", terminal_outcome: "" }],
  ])("sends nothing for an upstream that has not ended (%s)", async (_, fields) => {
    const flow = await servers().submit("up>child");
    await flow.end("up");
    await flow.fixture.read("hset", flow.keys("up").core, ...Object.entries(fields).flat());
    expect(await sweep(servers().ports([flow]))).toMatchObject({ repaired: 0, unreadable: 0, scanned: 1 });
  });

  it("sends nothing for an execution that is no longer blocked but still in the index", async () => {
    const flow = await servers().submit("up>child");
    await flow.end("up");
    await flow.fixture.read("hset", flow.keys("child").core, "eligibility_state", "eligible_now");
    expect(await sweep(servers().ports([flow]))).toMatchObject({ scanned: 1, repaired: 0, promoted: 0 });
  });

  it("sends a completion again when its delay is over, and at once after a replay", async () => {
    const flow = await servers().submit("up>child");
    await flow.end("up");
    const sends: number[] = [];
    for (const waitedMs of [0, MINUTE_MS - 5_000, 5_000, MINUTE_MS, MINUTE_MS]) {
      if (waitedMs > 0) await flow.backdateMark("up", waitedMs);
      sends.push((await sweep(servers().ports([flow]))).repaired);
    }
    expect(sends).toEqual([1, 0, 1, 0, 1]);
    await backdateEnd(flow.fixture, flow.keys("up"), MINUTE_MS / 2 + 1_000);
    expect(await sweep(servers().ports([flow]))).toMatchObject({ repaired: 1 });
    await servers().queue.drain();
  });

  it("sends few completions while the queue holds many, and all if they are not in the queue", async () => {
    const flows = await Promise.all(names("", 15).map(() => servers().submit("up>child")));
    for (const flow of flows) await flow.end("up", "success", 2 * MINUTE_MS);
    const behind = servers().ports(flows, { backlog: { count: async () => 15 } });
    expect(await sweep(behind)).toMatchObject({ state: "complete", repaired: 1, deferred: 14 });
    expect(behind.telemetry.counts.get(METRICS.completionsDeferred)).toBe(14);
    await servers().queue.drain();
    expect(await sweep(servers().ports(flows))).toMatchObject({ repaired: 14, deferred: 0 });
    await servers().queue.drain();
  });

  it("goes on with a warning if the messages in the queue cannot be counted", async () => {
    const flow = await servers().submit("up>child");
    await flow.end("up");
    const noCounts = { count: () => Promise.reject(new QueueError("AccessDenied")) };
    const ports = servers().ports([flow], { backlog: noCounts });
    expect(await sweep(ports)).toMatchObject({ state: "complete", repaired: 1 });
    expect(ports.telemetry.warnings.map(({ fields }) => fields.reason)).toEqual(["AccessDenied"]);
    await servers().queue.drain();
  });

  it("changes no record and no index, and writes one mark", async () => {
    const flow = await servers().submit("up>child", "child>grandchild");
    await flow.end("up", "failed");
    const before = await flow.fixture.snapshot();
    expect(await sweep(servers().ports([flow]))).toMatchObject({ repaired: 1 });
    await flow.fixture.read("del", flow.keys("up").resent(flow.fixture.flow.id));
    expect(await flow.fixture.snapshot()).toEqual(before);
  });
});
