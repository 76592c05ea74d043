import { randomUUID } from "node:crypto";
import { describe, expect, it } from "vitest";
import { mintExecutionId, unwrap } from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { PartitionRouter } from "#shared/contract/partitions.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { RecordingPublisher } from "#test/submission/fixture.ts";
import {
  bulkFamily,
  dispatchAll,
  dispatchOne,
  dispatchSetup,
  eventOf,
  family,
  stateOf,
} from "#test/support/dispatch.ts";
import { type FlowFixture, newFlowId, ROUTER } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS, run } from "#test/support/valkey.ts";

/** More than one window of the dispatcher, which has 2,500 edges. */
const EDGES = 3_000;
const TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

describe.each(DEPLOYMENTS)("resolving children ($name)", (deployment) => {
  const setup = dispatchSetup(deployment);

  const states = (fixture: FlowFixture, members: readonly ExecKeys[]): Promise<string[]> =>
    Promise.all(members.map((member) => stateOf(fixture, member)));

  it("makes the children of a success eligible with the upstream's result, and publishes nothing", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 3, "result");
    await fixture.finish(parent, "success", "the result");
    const ports = setup.ports();
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await states(fixture, children)).toEqual(["waiting", "waiting", "waiting"]);
    for (const child of children) expect(await fixture.read("get", child.payload)).toBe("the result");
    expect(await setup.queue.drain()).toEqual([]);
    expect(ports.telemetry.counts).toEqual(new Map([[METRICS.edgesSatisfied, 3]]));
  });

  it("makes a child eligible only after its last upstream succeeded", async () => {
    const fixture = setup.flow();
    const [first, second, child] = [await fixture.member(), await fixture.member(), await fixture.member()];
    await fixture.edge(first, child);
    await fixture.edge(second, child);
    const ports = setup.ports();
    await fixture.finish(first, "success");
    await dispatchOne(ports, eventOf(first.id, fixture.flow.id));
    expect(await stateOf(fixture, child)).toBe("waiting_children");
    await fixture.finish(second, "success");
    await dispatchOne(ports, eventOf(second.id, fixture.flow.id));
    expect(await stateOf(fixture, child)).toBe("waiting");
  });

  it("skips the children of a failure and publishes each, one level deeper", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 23);
    await fixture.finish(parent, "failed");
    const ports = setup.ports();
    const root = fixture.newExecution().id;
    const event = eventOf(parent.id, fixture.flow.id, { depth: 4, root, traceparent: TRACE });
    expect(await dispatchOne(ports, event)).toEqual([]);
    expect(new Set(await states(fixture, children))).toEqual(new Set(["skipped"]));
    const messages = await setup.queue.drain();
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

  it.each(["cancelled", "expired", "skipped"])(
    "skips the children for the outcome %s too",
    async (outcome) => {
      const fixture = setup.flow();
      const { parent, children } = await family(fixture, 1);
      await fixture.finish(parent, "failed");
      await fixture.read("hset", parent.core, "terminal_outcome", outcome);
      expect(await dispatchOne(setup.ports(), eventOf(parent.id, fixture.flow.id))).toEqual([]);
      expect(await states(fixture, children)).toEqual(["skipped"]);
    },
  );

  it("uses the outcome of the record", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 1);
    await fixture.finish(parent, "success");
    expect(await dispatchOne(setup.ports(), eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await states(fixture, children)).toEqual(["waiting"]);
  });

  it("writes to the index of the child's lane and to its current attempt", async () => {
    const fixture = setup.flow();
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
    await dispatchOne(setup.ports(), eventOf(parent.id, fixture.flow.id));
    const idx = `ff:idx:{fp:${fixture.flow.partition}}:lane:gpu ~1:terminal`;
    expect(await fixture.read("zrange", idx, "0", "-1")).toEqual([child.id]);
    expect(await fixture.read("zrange", fixture.index.lane(fixture.lane).terminal, "0", "-1")).toEqual([
      parent.id,
    ]);
    const attempt = `ff:attempt:{fp:${fixture.flow.partition}}:${child.id}:3`;
    expect(await fixture.hash(attempt)).toMatchObject({ attempt_state: "ended_cancelled" });
  });

  it.each([
    ["lane_id", ""],
    ["lane_id", "tab\there"],
    ["current_attempt_index", "minus one"],
  ])("fails the message if a child's %s is %j, and resolves the other edges", async (field, value) => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 3);
    const [, broken] = children;
    if (!broken) throw new Error("no child");
    await fixture.read("hset", broken.core, field, value);
    await fixture.finish(parent, "success");
    const errors = await dispatchOne(setup.ports(), eventOf(parent.id, fixture.flow.id));
    expect(errors).toMatchObject([{ name: "InvalidRecordError" }]);
    expect(errors[0]?.message).toContain(field);
    expect(await states(fixture, children)).toEqual(["waiting", "waiting_children", "waiting"]);
  });

  it("fails the message if a child's record cannot be read, and resolves the other edges", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 2);
    const [broken, sound] = children;
    if (!broken || !sound) throw new Error("no child");
    await fixture.read("del", broken.core);
    await fixture.read("set", broken.core, "not a hash");
    await fixture.finish(parent, "success");
    const errors = await dispatchOne(setup.ports(), eventOf(parent.id, fixture.flow.id));
    expect(errors).toMatchObject([{ name: "ValkeyError", retryable: true }]);
    expect(await stateOf(fixture, sound)).toBe("waiting");
  });

  it("skips, logs and counts edges whose ids do not parse", async () => {
    const fixture = setup.flow();
    const { parent, children, edges } = await family(fixture, 2);
    const [strange] = edges;
    if (!strange) throw new Error("no edge");
    const missing = randomUUID();
    await fixture.read("sadd", fixture.flow.outgoing(parent.id), "not-a-uuid", missing);
    await fixture.read("hset", fixture.flow.edge(strange.id), "downstream_execution_id", "{fp:1}:not-a-uuid");
    await fixture.finish(parent, "success");
    const ports = setup.ports();
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await states(fixture, children)).toEqual(["waiting_children", "waiting"]);
    expect(ports.telemetry.counts.get(METRICS.edgesUnreadable)).toBe(3);
    expect(ports.telemetry.warnings.map(({ fields }) => fields.edge_id).sort()).toEqual(
      ["not-a-uuid", missing, strange.id].sort(),
    );
  });

  it("fails the message if an edge is staged and not applied; redelivery resolves it once it is applied", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 1);
    const late = await fixture.member();
    const edge = fixture.newEdge(parent, late);
    const revision = await fixture.stage(edge);
    await fixture.finish(parent, "success");
    const ports = setup.ports();
    const errors = await dispatchOne(ports, eventOf(parent.id, fixture.flow.id));
    expect(errors).toMatchObject([{ name: "RefusedError", code: "invalid_dependency", retryable: true }]);
    expect(await states(fixture, children)).toEqual(["waiting"]);
    await fixture.done(fixture.apply(edge, late, revision));
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await stateOf(fixture, late)).toBe("waiting");
  });

  it("resolves an edge whose child has no record, and writes no index", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 1);
    const [child] = children;
    if (!child) throw new Error("no child");
    await fixture.read("del", child.core);
    await fixture.read("zrem", fixture.index.lane(fixture.lane).blockedDependencies, child.id);
    await fixture.finish(parent, "failed");
    expect(await dispatchOne(setup.ports(), eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await fixture.read("exists", child.core)).toBe(0);
    expect(await fixture.read("exists", `ff:noop:{fp:${fixture.flow.partition}}`)).toBe(0);
    expect(await fixture.read("zscore", fixture.index.lane(fixture.lane).terminal, child.id)).toBeNull();
    expect(await setup.queue.drain()).toEqual([]);
  });

  it("dispatches a batch over several flows and partitions, with two executions in it twice", async () => {
    const fixtures = Array.from({ length: 10 }, () => setup.flow());
    const families = await Promise.all(fixtures.map((fixture) => family(fixture, 2)));
    const events = await Promise.all(
      families.map(async ({ parent }, index) => {
        await fixtures[index]?.finish(parent, index % 2 === 0 ? "success" : "failed");
        return eventOf(parent.id, fixtures[index]?.flow.id, { depth: 3 });
      }),
    );
    const [first] = events;
    const [, second] = events;
    if (!first || !second) throw new Error("no events");
    const errors = await dispatchAll(setup.ports(), [...events, first, { ...second, depth: 1 }]);
    expect(errors).toEqual(Array.from({ length: 12 }, () => []));
    for (const [index, { children }] of families.entries()) {
      const fixture = fixtures[index];
      if (!fixture) throw new Error("no fixture");
      expect(new Set(await states(fixture, children))).toEqual(
        new Set([index % 2 === 0 ? "waiting" : "skipped"]),
      );
    }
    const published = await setup.queue.drainEvents();
    expect(published).toHaveLength(10);
    expect(published.filter(({ depth }) => depth === 2)).toHaveLength(2);
  });

  it("finds the flow of an execution that was created with another partition count", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 2);
    await fixture.finish(parent, "success");
    const router = new PartitionRouter({
      numFlowPartitions: 7,
      numBudgetPartitions: 1,
      numQuotaPartitions: 1,
    });
    const ports = setup.ports({ router });
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await states(fixture, children)).toEqual(["waiting", "waiting"]);
  });

  // A cluster refuses to stage such an edge: its keys would be in two slots.
  if (deployment.name === "standalone") {
    it("finds the flow of a solo execution that joined it, on a standalone server", async () => {
      const fixture = setup.flow();
      await fixture.createFlow();
      const elsewhere = ROUTER.flowPartition(newFlowId());
      const solo = ROUTER.execKeys(unwrap(mintExecutionId(elsewhere, randomUUID())));
      const child = await fixture.member();
      const edge = fixture.newEdge(solo, child);
      await run(
        setup.valkey,
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
      expect(await dispatchOne(setup.ports(), eventOf(solo.id, fixture.flow.id))).toEqual([]);
      expect(await stateOf(fixture, child)).toBe("waiting");
    });
  }

  it("resolves every edge of more than one window", async () => {
    const fixture = setup.flow();
    const { parent, children } = await bulkFamily(fixture, EDGES);
    await fixture.finish(parent, "failed");
    // In memory: receiving that many messages from the emulator takes seconds.
    const publisher = new RecordingPublisher();
    const ports = setup.ports({ publisher });
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(ports.telemetry.counts.get(METRICS.childrenSkipped)).toBe(EDGES);
    expect(await fixture.read("zcard", fixture.index.lane(fixture.lane).terminal)).toBe(EDGES + 1);
    expect(publisher.executionIds.sort()).toEqual(children.map(({ id }) => id).sort());
  });
});
