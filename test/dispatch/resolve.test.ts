import { randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { mintExecutionId, parseFlowId, unwrap } from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import {
  bulkFamily,
  dispatchAll,
  dispatchOne,
  eventOf,
  family,
  portsOf,
  QueueProbe,
  stateOf,
} from "#test/support/dispatch.ts";
import { FlowFixture, newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS, run } from "#test/support/valkey.ts";

const TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

describe.each(DEPLOYMENTS)("resolving children ($name)", ({ connect, name }) => {
  let valkey: Valkey;
  let queue: QueueProbe;

  beforeAll(async () => {
    valkey = connect();
    queue = await QueueProbe.start();
  });
  afterAll(async () => {
    valkey.close();
    await queue[Symbol.asyncDispose]();
  });

  const states = (fixture: FlowFixture, members: readonly ExecKeys[]): Promise<string[]> =>
    Promise.all(members.map((member) => stateOf(fixture, member)));

  it("makes the children of a success eligible, with the upstream's result, and publishes nothing", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await family(fixture, 3, "result");
    await fixture.finish(parent, "success", "the result");
    const ports = portsOf(valkey, queue);
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await states(fixture, children)).toEqual(["waiting", "waiting", "waiting"]);
    for (const child of children) expect(await fixture.read("get", child.payload)).toBe("the result");
    expect(await queue.drain()).toEqual([]);
    expect(ports.telemetry.counts).toEqual(new Map([[METRICS.edgesSatisfied, 3]]));
  });

  it("waits for the last dependency", async () => {
    const fixture = new FlowFixture(valkey);
    const [first, second, child] = [await fixture.member(), await fixture.member(), await fixture.member()];
    await fixture.edge(first, child);
    await fixture.edge(second, child);
    const ports = portsOf(valkey, queue);
    await fixture.finish(first, "success");
    await dispatchOne(ports, eventOf(first.id, fixture.flow.id));
    expect(await stateOf(fixture, child)).toBe("waiting_children");
    await fixture.finish(second, "success");
    await dispatchOne(ports, eventOf(second.id, fixture.flow.id));
    expect(await stateOf(fixture, child)).toBe("waiting");
  });

  it("skips the children of a failure and sends them back, one level deeper", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await family(fixture, 23);
    await fixture.finish(parent, "failed");
    const ports = portsOf(valkey, queue);
    const root = fixture.newExecution().id;
    const event = eventOf(parent.id, fixture.flow.id, { depth: 4, root, traceparent: TRACE });
    expect(await dispatchOne(ports, event)).toEqual([]);
    expect(new Set(await states(fixture, children))).toEqual(new Set(["skipped"]));
    const messages = await queue.drain();
    expect(new Set(messages.map(({ Body }) => Body))).toEqual(
      new Set(
        children.map(({ id }) =>
          JSON.stringify({ execution_id: id, flow_id: fixture.flow.id, outcome: "skipped" }),
        ),
      ),
    );
    expect(messages).toHaveLength(23);
    for (const message of messages) {
      expect(message.MessageAttributes).toMatchObject({
        depth: { DataType: "Number", StringValue: "5" },
        root: { DataType: "String", StringValue: root },
        traceparent: { DataType: "String", StringValue: TRACE },
      });
    }
    expect(ports.telemetry.counts.get(METRICS.childrenSkipped)).toBe(23);
    expect(ports.telemetry.counts.get(METRICS.cascadesPublished)).toBe(23);
  });

  it.each(["cancelled", "expired", "skipped"])("skips for the outcome %s as well", async (outcome) => {
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await family(fixture, 1);
    await fixture.finish(parent, "failed");
    await fixture.read("hset", parent.core, "terminal_outcome", outcome);
    expect(await dispatchOne(portsOf(valkey, queue), eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await states(fixture, children)).toEqual(["skipped"]);
    await queue.drain();
  });

  it("uses the record's outcome and not the message's", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await family(fixture, 1);
    await fixture.finish(parent, "success");
    // parseCompletionEvent does not even hand the message's outcome over; the record decides.
    expect(await dispatchOne(portsOf(valkey, queue), eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await states(fixture, children)).toEqual(["waiting"]);
  });

  it("writes the child's own lane and attempt", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await family(fixture, 1);
    const [child] = children;
    if (!child) throw new Error("no child");
    await fixture.read(
      "hset",
      child.core,
      "lane_id",
      "gpu ~1",
      "current_attempt_index",
      "3",
      "attempt_state",
      "attempt_interrupted",
    );
    await fixture.finish(parent, "failed");
    await dispatchOne(portsOf(valkey, queue), eventOf(parent.id, fixture.flow.id));
    const idx = `ff:idx:{fp:${fixture.flow.partition}}:lane:gpu ~1:terminal`;
    expect(await fixture.read("zrange", idx, "0", "-1")).toEqual([child.id]);
    expect(await fixture.read("zrange", fixture.index.lane(fixture.lane).terminal, "0", "-1")).toEqual([
      parent.id,
    ]);
    const attempt = `ff:attempt:{fp:${fixture.flow.partition}}:${child.id}:3`;
    expect(await fixture.hash(attempt)).toMatchObject({ attempt_state: "ended_cancelled" });
    await queue.drain();
  });

  it.each([
    ["lane_id", ""],
    ["lane_id", "tab\there"],
    ["current_attempt_index", "minus one"],
  ])("does not guess a child's %s (%j): the message fails, the other edges go on", async (field, value) => {
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await family(fixture, 3);
    const [, broken] = children;
    if (!broken) throw new Error("no child");
    await fixture.read("hset", broken.core, field, value);
    await fixture.finish(parent, "success");
    const errors = await dispatchOne(portsOf(valkey, queue), eventOf(parent.id, fixture.flow.id));
    expect(errors).toMatchObject([{ name: "InvalidRecordError" }]);
    expect(errors[0]?.message).toContain(field);
    expect(await states(fixture, children)).toEqual(["waiting", "waiting_children", "waiting"]);
  });

  it("fails for a child whose record cannot be read, and the other edges go on", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await family(fixture, 2);
    const [broken, sound] = children;
    if (!broken || !sound) throw new Error("no child");
    await fixture.read("del", broken.core);
    await fixture.read("set", broken.core, "not a hash");
    await fixture.finish(parent, "success");
    const errors = await dispatchOne(portsOf(valkey, queue), eventOf(parent.id, fixture.flow.id));
    expect(errors).toMatchObject([{ name: "ValkeyError", retryable: true }]);
    expect(await stateOf(fixture, sound)).toBe("waiting");
  });

  it("leaves edges alone whose ids do not parse, logs and counts them", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent, children, edges } = await family(fixture, 2);
    const [strange] = edges;
    if (!strange) throw new Error("no edge");
    const missing = randomUUID();
    await fixture.read("sadd", fixture.flow.outgoing(parent.id), "not-a-uuid", missing);
    await fixture.read("hset", fixture.flow.edge(strange.id), "downstream_execution_id", "{fp:1}:nobody");
    await fixture.finish(parent, "success");
    const ports = portsOf(valkey, queue);
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await states(fixture, children)).toEqual(["waiting_children", "waiting"]);
    expect(ports.telemetry.counts.get(METRICS.edgesUnreadable)).toBe(3);
    expect(ports.telemetry.warnings.map(({ fields }) => fields.edge_id).sort()).toEqual(
      ["not-a-uuid", missing, strange.id].sort(),
    );
  });

  it("fails for an edge that is staged and not applied yet; once it is, the same message resolves it", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await family(fixture, 1);
    const late = await fixture.member();
    const edge = fixture.newEdge(parent, late);
    const revision = await fixture.stage(edge);
    await fixture.finish(parent, "success");
    const ports = portsOf(valkey, queue);
    const errors = await dispatchOne(ports, eventOf(parent.id, fixture.flow.id));
    expect(errors).toMatchObject([{ name: "RefusedError", code: "invalid_dependency", retryable: true }]);
    expect(await states(fixture, children)).toEqual(["waiting"]);
    await fixture.done(fixture.apply(edge, late, revision));
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await stateOf(fixture, late)).toBe("waiting");
  });

  it("resolves an edge whose child's record is gone, and writes no index", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await family(fixture, 1);
    const [child] = children;
    if (!child) throw new Error("no child");
    await fixture.read("del", child.core);
    await fixture.read("zrem", fixture.index.lane(fixture.lane).blockedDependencies, child.id);
    await fixture.finish(parent, "failed");
    expect(await dispatchOne(portsOf(valkey, queue), eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await fixture.read("exists", child.core)).toBe(0);
    expect(await fixture.read("exists", `ff:noop:{fp:${fixture.flow.partition}}`)).toBe(0);
    expect(await fixture.read("zscore", fixture.index.lane(fixture.lane).terminal, child.id)).toBeNull();
    expect(await queue.drain()).toEqual([]);
  });

  it("deals with a batch over several flows and partitions, and with one execution twice in it", async () => {
    const scenes = Array.from({ length: 10 }, () => new FlowFixture(valkey));
    const families = await Promise.all(scenes.map((fixture) => family(fixture, 2)));
    const events = await Promise.all(
      families.map(async ({ parent }, index) => {
        await scenes[index]?.finish(parent, index % 2 === 0 ? "success" : "failed");
        return eventOf(parent.id, scenes[index]?.flow.id, { depth: 3 });
      }),
    );
    const [first] = events;
    const [, second] = events;
    if (!first || !second) throw new Error("no events");
    const errors = await dispatchAll(portsOf(valkey, queue), [...events, first, { ...second, depth: 1 }]);
    expect(errors).toEqual(Array.from({ length: 12 }, () => []));
    for (const [index, { children }] of families.entries()) {
      const fixture = scenes[index];
      if (!fixture) throw new Error("no fixture");
      expect(new Set(await states(fixture, children))).toEqual(
        new Set([index % 2 === 0 ? "waiting" : "skipped"]),
      );
    }
    const published = await queue.drainEvents();
    expect(published).toHaveLength(10);
    expect(published.filter(({ depth }) => depth === 2)).toHaveLength(2);
  });

  it("finds the flow of an execution whose deployment has another partition count", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await family(fixture, 2);
    await fixture.finish(parent, "success");
    const router = new PartitionRouter({
      numFlowPartitions: 7,
      numBudgetPartitions: 1,
      numQuotaPartitions: 1,
    });
    const ports = portsOf(valkey, queue, { router });
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await states(fixture, children)).toEqual(["waiting", "waiting"]);
  });

  // A cluster refuses to stage such an edge: its keys would be in two slots.
  if (name === "standalone") {
    it("finds the flow of a solo execution that joined it, on a standalone server", async () => {
      const fixture = new FlowFixture(valkey);
      await fixture.createFlow();
      const elsewhere = ROUTER.flowPartition(newFlowId());
      const solo = ROUTER.execKeys(unwrap(mintExecutionId(elsewhere, randomUUID())));
      const child = await fixture.member();
      const edge = fixture.newEdge(solo, child);
      await run(
        valkey,
        elsewhere,
        "hset",
        solo.core,
        "lifecycle_phase",
        "terminal",
        "terminal_outcome",
        "success",
      );
      await fixture.read("sadd", fixture.flow.members, solo.id);
      await fixture.done(fixture.apply(edge, child, await fixture.stage(edge)));
      expect(await dispatchOne(portsOf(valkey, queue), eventOf(solo.id, fixture.flow.id))).toEqual([]);
      expect(await stateOf(fixture, child)).toBe("waiting");
    });
  }

  it("acknowledges an execution whose flow is not there", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent } = await family(fixture, 1);
    await fixture.finish(parent, "success");
    const other = unwrap(parseFlowId(randomUUID()));
    expect(ROUTER.flowKeys(other, fixture.flow.partition).core).not.toBe(fixture.flow.core);
    expect(await dispatchOne(portsOf(valkey, queue), eventOf(parent.id, other))).toEqual([]);
  });

  it("goes on beyond one window of edges", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await bulkFamily(fixture, 5_000);
    await fixture.finish(parent, "failed");
    const ports = portsOf(valkey, queue);
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(ports.telemetry.counts.get(METRICS.childrenSkipped)).toBe(5_000);
    expect(await fixture.read("zcard", fixture.index.lane(fixture.lane).terminal)).toBe(5_001);
    const published = (await queue.drainEvents()).map(({ executionId }) => executionId);
    expect(published.sort()).toEqual(children.map(({ id }) => id).sort());
  });
});
