import { describe, expect, it } from "vitest";
import { sweep } from "#shared/reconcile/sweep.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { endedAgo, KINDS, MINUTE_MS, standFor } from "#test/support/reconcile.ts";

const names = (prefix: string, count: number): string[] =>
  Array.from({ length: count }, (_, index) => `${prefix}${index}`);

describe.each(KINDS)("completions that dispatch missed (%s)", (kind) => {
  const stand = standFor(kind);

  it("in health, nothing is sent, and everything is counted", async () => {
    const flow = await stand().submitted("up>left", "up>right");
    const ports = stand().ports([flow]);
    expect(await sweep(ports)).toMatchObject({
      state: "complete",
      scanned: 2,
      repaired: 0,
      promoted: 0,
      unread: 0,
    });
    expect(await stand().sent()).toEqual([]);
    expect(ports.telemetry.counts.get(METRICS.completionsRepaired)).toBe(0);
    expect(ports.telemetry.counts.get(METRICS.executionsScanned)).toBe(2);
    expect(ports.telemetry.gauges.get(METRICS.oldestResolvableAge)).toBe(0);
    expect(ports.telemetry.gauges.get(METRICS.sweepDuration)).toBeGreaterThanOrEqual(0);
    expect(ports.telemetry.warnings).toEqual([]);
  });

  it("a thousand that legitimately wait do not hide the one that is stuck", async () => {
    const flow = await stand().submitted(
      ...names("waits", 1_000).map((name) => `open>${name}`),
      "gone>stuck",
    );
    await flow.end("gone");
    const { blockedDependencies } = flow.fixture.index.lane(flow.fixture.lane);
    // The newest of all, whatever order the submission had.
    await flow.fixture.read("zadd", blockedDependencies, Date.now() + MINUTE_MS, flow.keys("stuck").id);
    const report = await sweep(stand().ports([flow]));
    expect(report).toMatchObject({ state: "complete", repaired: 1 });
    expect(report.scanned).toBeGreaterThanOrEqual(1_001);
    expect(await stand().sent()).toEqual([flow.keys("gone").id]);
  });

  it("a child with a thousand unresolved edges is looked at whole", async () => {
    const ups = names("up", 1_000);
    const flow = await stand().submitted(...ups.map((name) => `${name}>child`));
    const edges = await flow.fixture.read("smembers", flow.keys("child").depsUnresolved);
    if (!Array.isArray(edges)) throw new Error("no edges");
    expect(edges).toHaveLength(1_000);
    const last = flow.keys("child").dep(edges.at(-1));
    const upstream = await flow.fixture.read("hget", last, "upstream_execution_id");
    const task = ups.find((name) => flow.keys(name).id === upstream) ?? "";
    await flow.end(task, "failed");
    const ports = stand().ports([flow]);
    expect(await sweep(ports)).toMatchObject({ repaired: 1, scanned: 1 });
    expect(await stand().sent()).toEqual([upstream]);
    // The others have not ended, so nobody could have released or skipped it.
    expect(ports.telemetry.gauges.get(METRICS.oldestResolvableAge)).toBe(0);
  });

  it("is sent once a sweep, however many children wait, and once more by the next", async () => {
    const flow = await stand().submitted(...names("child", 600).map((name) => `up>${name}`));
    await flow.end("up", "failed");
    const ports = stand().ports([flow]);
    expect(await sweep(ports)).toMatchObject({ repaired: 1, scanned: 600 });
    const [event, ...others] = await stand().queue.drainEvents();
    expect(others).toEqual([]);
    const { id } = flow.keys("up");
    expect(event).toEqual({
      executionId: id,
      flowId: flow.fixture.flow.id,
      depth: 0,
      root: id,
      traceparent: undefined,
    });
    expect(ports.telemetry.gauges.get(METRICS.oldestResolvableAge)).toBe(60);
    expect(await sweep(stand().ports([flow]))).toMatchObject({ repaired: 1 });
    expect(await stand().sent()).toEqual([id]);
  });

  it.each([
    ["success", "complete"],
    ["failed", "fail"],
    ["cancelled", "cancel"],
    ["skipped", "skip"],
  ] as const)("whatever its outcome (%s)", async (outcome, how) => {
    const flow = await stand().submitted("up>child");
    const up = flow.keys("up");
    if (how === "cancel") await flow.fixture.cancel(up);
    else if (how === "skip") {
      const skipped = { lifecycle_phase: "terminal", terminal_outcome: "skipped" };
      await flow.fixture.read("hset", up.core, ...Object.entries(skipped).flat());
    } else await flow.fixture.finish(up, how === "fail" ? "failed" : "success");
    await endedAgo(flow.fixture, up, MINUTE_MS);
    await sweep(stand().ports([flow]));
    const [message] = await stand().queue.drain();
    expect(JSON.parse(message?.Body ?? "")).toEqual({
      execution_id: up.id,
      flow_id: flow.fixture.flow.id,
      outcome,
    });
  });

  it("only after the grace, by the server's clock", async () => {
    const flow = await stand().submitted("up>child");
    const tooLate = { now: () => Date.now() + 3_600_000 };
    await flow.end("up", "success", 29_000);
    expect(await sweep(stand().ports([flow], tooLate))).toMatchObject({ repaired: 0, scanned: 1 });
    await endedAgo(flow.fixture, flow.keys("up"), 31_000);
    expect(await sweep(stand().ports([flow], tooLate))).toMatchObject({ repaired: 1 });
  });

  it.each([
    ["a clock far ahead", String(Date.now() + 3_600_000)],
    ["no time at all", ""],
  ])("an end without a time that can be meant is not in the grace for ever (%s)", async (_, completedAt) => {
    const flow = await stand().submitted("up>child");
    await flow.end("up");
    await flow.fixture.read(
      "hset",
      flow.keys("up").core,
      "completed_at",
      completedAt,
      "last_transition_at",
      "",
    );
    expect(await sweep(stand().ports([flow]))).toMatchObject({ repaired: 1 });
  });

  it.each([
    ["not terminal", { lifecycle_phase: "active", terminal_outcome: "success" }],
    ["the outcome none", { lifecycle_phase: "terminal", terminal_outcome: "none" }],
    ["the outcome empty", { lifecycle_phase: "terminal", terminal_outcome: "" }],
  ])("never for an upstream that has not ended (%s)", async (_, fields) => {
    const flow = await stand().submitted("up>child");
    await flow.end("up");
    await flow.fixture.read("hset", flow.keys("up").core, ...Object.entries(fields).flat());
    expect(await sweep(stand().ports([flow]))).toMatchObject({ repaired: 0, unreadable: 0, scanned: 1 });
  });

  it("never for an execution that does not wait any more, though an index names it", async () => {
    const flow = await stand().submitted("up>child");
    await flow.end("up");
    await flow.fixture.read("hset", flow.keys("child").core, "eligibility_state", "eligible_now");
    expect(await sweep(stand().ports([flow]))).toMatchObject({ scanned: 1, repaired: 0, promoted: 0 });
  });

  it("changes no execution itself", async () => {
    const flow = await stand().submitted("up>child", "child>grandchild");
    await flow.end("up", "failed");
    const before = await flow.fixture.snapshot();
    expect(await sweep(stand().ports([flow]))).toMatchObject({ repaired: 1 });
    expect(await flow.fixture.snapshot()).toEqual(before);
  });
});
