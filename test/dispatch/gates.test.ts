import { describe, expect, it } from "vitest";
import { cancelFlow, replayExecution } from "#shared/contract/graph.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { dispatchAll, dispatchOne, dispatchSetup, eventOf, family, stateOf } from "#test/support/dispatch.ts";
import { RoundCounter } from "#test/support/round-counter.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS)("messages that are not dispatched ($name)", (deployment) => {
  const setup = dispatchSetup(deployment);

  it("acknowledges an execution without a flow, without a round trip to Valkey", async () => {
    const fixture = setup.flow();
    const counter = new RoundCounter(setup.valkey);
    const ports = setup.ports({ valkey: counter });
    expect(await dispatchOne(ports, eventOf(fixture.newExecution().id, undefined))).toEqual([]);
    expect(counter.rounds).toBe(0);
    expect(ports.telemetry.warnings).toEqual([]);
  });

  it("acknowledges a message above the depth limit with a warning and a metric, and writes nothing", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 1);
    await fixture.finish(parent, "failed");
    const ports = setup.ports({ maxCascadeDepth: 50 });
    const before = await fixture.snapshot();
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id, { depth: 51 }))).toEqual([]);
    expect(await fixture.snapshot()).toEqual(before);
    expect(ports.telemetry.counts).toEqual(new Map([[METRICS.depthLimitReached, 1]]));
    expect(ports.telemetry.warnings).toHaveLength(1);

    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id, { depth: 50 }))).toEqual([]);
    expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(["skipped"]);
    expect(await setup.queue.drainEvents()).toMatchObject([{ executionId: children[0]?.id, depth: 51 }]);
  });

  it("fails a message whose execution has no record, for a retry", async () => {
    const fixture = setup.flow();
    const errors = await dispatchOne(setup.ports(), eventOf(fixture.newExecution().id, fixture.flow.id));
    expect(errors).toMatchObject([{ name: "InvalidRecordError", retryable: true }]);
  });

  it("acknowledges a message whose execution has not ended, counts it, and writes nothing", async () => {
    const fixture = setup.flow();
    const { parent } = await family(fixture, 2);
    const ports = setup.ports();
    const expectUntouched = async (): Promise<void> => {
      const before = await fixture.snapshot();
      expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
      expect(await fixture.snapshot()).toEqual(before);
    };
    await expectUntouched();
    const lease = await fixture.claim(parent);
    await expectUntouched();
    await fixture.complete(parent, lease);
    await fixture.done(replayExecution(parent, fixture.index, fixture.lane, [], 0));
    await expectUntouched();
    expect(ports.telemetry.counts).toEqual(new Map([[METRICS.recordNotTerminal, 3]]));
    expect(ports.telemetry.warnings).toHaveLength(3);
  });

  it.each([
    ["terminal", ""],
    ["terminal", "none"],
    ["runnable", "failed"],
    ["", "failed"],
  ])("writes nothing for phase %j with outcome %j", async (phase, outcome) => {
    const fixture = setup.flow();
    const { parent } = await family(fixture, 1);
    await fixture.finish(parent, "failed");
    await fixture.read("hset", parent.core, "lifecycle_phase", phase, "terminal_outcome", outcome);
    const before = await fixture.snapshot();
    const ports = setup.ports();
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await fixture.snapshot()).toEqual(before);
    expect(ports.telemetry.counts).toEqual(new Map([[METRICS.recordNotTerminal, 1]]));
  });

  it("fails a message whose outcome is unknown, and writes nothing", async () => {
    const fixture = setup.flow();
    const { parent } = await family(fixture, 1);
    await fixture.finish(parent, "success");
    await fixture.read("hset", parent.core, "terminal_outcome", "mostly_harmless");
    const before = await fixture.snapshot();
    const errors = await dispatchOne(setup.ports(), eventOf(parent.id, fixture.flow.id));
    expect(errors).toMatchObject([{ name: "InvalidRecordError" }]);
    expect(await fixture.snapshot()).toEqual(before);
  });

  it("acknowledges an execution without edges", async () => {
    const fixture = setup.flow();
    const only = await fixture.member();
    await fixture.finish(only, "success");
    const ports = setup.ports();
    expect(await dispatchOne(ports, eventOf(only.id, fixture.flow.id))).toEqual([]);
    expect(ports.telemetry.warnings).toEqual([]);
  });

  it("fails only the message of the batch whose record cannot be read", async () => {
    const fixture = setup.flow();
    const broken = await family(fixture, 1);
    const sound = await family(fixture, 1);
    await fixture.finish(broken.parent, "success");
    await fixture.finish(sound.parent, "success");
    await fixture.read("del", broken.parent.core);
    await fixture.read("set", broken.parent.core, "not a hash");
    const ports = setup.ports();
    const [first, second] = await dispatchAll(ports, [
      eventOf(broken.parent.id, fixture.flow.id),
      eventOf(sound.parent.id, fixture.flow.id),
    ]);
    expect(first).toMatchObject([{ name: "ValkeyError", retryable: true }]);
    expect(second).toEqual([]);
    expect(await Promise.all(sound.children.map((child) => stateOf(fixture, child)))).toEqual(["waiting"]);
    expect(await Promise.all(broken.children.map((child) => stateOf(fixture, child)))).toEqual([
      "waiting_children",
    ]);
  });

  it("fails a message whose edges cannot be read", async () => {
    const fixture = setup.flow();
    const { parent } = await family(fixture, 1);
    await fixture.finish(parent, "success");
    await fixture.read("del", fixture.flow.outgoing(parent.id));
    await fixture.read("set", fixture.flow.outgoing(parent.id), "not a set");
    const errors = await dispatchOne(setup.ports(), eventOf(parent.id, fixture.flow.id));
    expect(errors).toMatchObject([{ name: "ValkeyError" }]);
  });

  it("dispatches for a cancelled flow too, so that its members do not wait forever", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 1);
    await fixture.done(cancelFlow(fixture.flow, fixture.index, "enough", "cancel_all", 0));
    await fixture.cancel(parent, "flow_cascade");
    expect(await dispatchOne(setup.ports(), eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(["skipped"]);
  });
});
