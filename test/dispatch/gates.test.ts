import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { cancelFlow, replayExecution } from "#shared/contract/graph.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import {
  dispatchAll,
  dispatchOne,
  eventOf,
  family,
  portsOf,
  QueueProbe,
  stateOf,
} from "#test/support/dispatch.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS)("what is not dispatched ($name)", ({ connect }) => {
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

  it("acknowledges an execution in no flow, without reading anything", async () => {
    const fixture = new FlowFixture(valkey);
    const ports = portsOf(valkey, queue);
    expect(await dispatchOne(ports, eventOf(fixture.newExecution().id, undefined))).toEqual([]);
    expect(ports.telemetry.warnings).toEqual([]);
  });

  it("acknowledges above the depth limit, with a warning and a metric, and leaves the children alone", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await family(fixture, 1);
    await fixture.finish(parent, "failed");
    const ports = portsOf(valkey, queue, { maxCascadeDepth: 50 });
    const before = await fixture.snapshot();
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id, { depth: 51 }))).toEqual([]);
    expect(await fixture.snapshot()).toEqual(before);
    expect(ports.telemetry.counts).toEqual(new Map([[METRICS.depthLimitReached, 1]]));
    expect(ports.telemetry.warnings).toHaveLength(1);

    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id, { depth: 50 }))).toEqual([]);
    expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(["skipped"]);
    expect(await queue.drainEvents()).toMatchObject([{ executionId: children[0]?.id, depth: 51 }]);
  });

  it("fails the message of an execution that has no record", async () => {
    const fixture = new FlowFixture(valkey);
    const errors = await dispatchOne(
      portsOf(valkey, queue),
      eventOf(fixture.newExecution().id, fixture.flow.id),
    );
    expect(errors).toMatchObject([{ name: "InvalidRecordError", retryable: true }]);
  });

  it("never resolves on behalf of an execution that has not ended", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent } = await family(fixture, 2);
    const ports = portsOf(valkey, queue);
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
  ])("never resolves for phase %j with outcome %j", async (phase, outcome) => {
    const fixture = new FlowFixture(valkey);
    const { parent } = await family(fixture, 1);
    await fixture.finish(parent, "failed");
    await fixture.read("hset", parent.core, "lifecycle_phase", phase, "terminal_outcome", outcome);
    const before = await fixture.snapshot();
    const ports = portsOf(valkey, queue);
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await fixture.snapshot()).toEqual(before);
    expect(ports.telemetry.counts).toEqual(new Map([[METRICS.recordNotTerminal, 1]]));
  });

  it("fails for an outcome that the contract does not know, rather than take it for a failure", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent } = await family(fixture, 1);
    await fixture.finish(parent, "success");
    await fixture.read("hset", parent.core, "terminal_outcome", "mostly_harmless");
    const before = await fixture.snapshot();
    const errors = await dispatchOne(portsOf(valkey, queue), eventOf(parent.id, fixture.flow.id));
    expect(errors).toMatchObject([{ name: "InvalidRecordError" }]);
    expect(await fixture.snapshot()).toEqual(before);
  });

  it("acknowledges an execution without edges", async () => {
    const fixture = new FlowFixture(valkey);
    const only = await fixture.member();
    await fixture.finish(only, "success");
    const ports = portsOf(valkey, queue);
    expect(await dispatchOne(ports, eventOf(only.id, fixture.flow.id))).toEqual([]);
    expect(ports.telemetry.warnings).toEqual([]);
  });

  it("fails a message whose record cannot be read, and not the others of its batch", async () => {
    const fixture = new FlowFixture(valkey);
    const broken = await family(fixture, 1);
    const sound = await family(fixture, 1);
    await fixture.finish(broken.parent, "success");
    await fixture.finish(sound.parent, "success");
    await fixture.read("del", broken.parent.core);
    await fixture.read("set", broken.parent.core, "not a hash");
    const ports = portsOf(valkey, queue);
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
    const fixture = new FlowFixture(valkey);
    const { parent } = await family(fixture, 1);
    await fixture.finish(parent, "success");
    await fixture.read("del", fixture.flow.outgoing(parent.id));
    await fixture.read("set", fixture.flow.outgoing(parent.id), "not a set");
    const errors = await dispatchOne(portsOf(valkey, queue), eventOf(parent.id, fixture.flow.id));
    expect(errors).toMatchObject([{ name: "ValkeyError" }]);
  });

  it("dispatches for a cancelled flow too: its members must not wait for ever", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent, children } = await family(fixture, 1);
    await fixture.done(cancelFlow(fixture.flow, fixture.index, "enough", "cancel_all", 0));
    await fixture.cancel(parent, "flow_cascade");
    expect(await dispatchOne(portsOf(valkey, queue), eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(["skipped"]);
    await queue.drain();
  });
});
