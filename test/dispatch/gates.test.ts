import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { cancelFlow, replayExecution } from "#shared/contract/graph.ts";
import { dispatch } from "#shared/dispatch/dispatcher.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { dispatchOne, eventOf, family, portsOf, QueueProbe, stateOf } from "#test/support/dispatch.ts";
import { Scene } from "#test/support/scene.ts";
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
    const scene = new Scene(valkey);
    const ports = portsOf(valkey, queue);
    expect(await dispatchOne(ports, eventOf(scene.newExecution().id, undefined))).toEqual([]);
    expect(ports.telemetry.warnings).toEqual([]);
  });

  it("acknowledges above the depth limit, with a warning and a metric, and leaves the children alone", async () => {
    const scene = new Scene(valkey);
    const { parent, children } = await family(scene, 1);
    await scene.finish(parent, "failed");
    const ports = portsOf(valkey, queue, { maxCascadeDepth: 50 });
    const before = await scene.snapshot();
    expect(await dispatchOne(ports, eventOf(parent.id, scene.flow.id, { depth: 51 }))).toEqual([]);
    expect(await scene.snapshot()).toEqual(before);
    expect(ports.telemetry.counts).toEqual(new Map([[METRICS.depthLimitReached, 1]]));
    expect(ports.telemetry.warnings).toHaveLength(1);

    expect(await dispatchOne(ports, eventOf(parent.id, scene.flow.id, { depth: 50 }))).toEqual([]);
    expect(await Promise.all(children.map((child) => stateOf(scene, child)))).toEqual(["skipped"]);
    expect(await queue.drainEvents()).toMatchObject([{ executionId: children[0]?.id, depth: 51 }]);
  });

  it("fails the message of an execution that has no record", async () => {
    const scene = new Scene(valkey);
    const faults = await dispatchOne(portsOf(valkey, queue), eventOf(scene.newExecution().id, scene.flow.id));
    expect(faults).toMatchObject([{ name: "InvalidRecordError", retryable: true }]);
  });

  it("never resolves on behalf of an execution that has not ended", async () => {
    const scene = new Scene(valkey);
    const { parent } = await family(scene, 2);
    const ports = portsOf(valkey, queue);
    const expectUntouched = async (): Promise<void> => {
      const before = await scene.snapshot();
      expect(await dispatchOne(ports, eventOf(parent.id, scene.flow.id))).toEqual([]);
      expect(await scene.snapshot()).toEqual(before);
    };
    await expectUntouched();
    const lease = await scene.claim(parent);
    await expectUntouched();
    await scene.complete(parent, lease);
    await scene.done(replayExecution(parent, scene.index, scene.lane, [], 0));
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
    const scene = new Scene(valkey);
    const { parent } = await family(scene, 1);
    await scene.finish(parent, "failed");
    await scene.read("hset", parent.core, "lifecycle_phase", phase, "terminal_outcome", outcome);
    const before = await scene.snapshot();
    const ports = portsOf(valkey, queue);
    expect(await dispatchOne(ports, eventOf(parent.id, scene.flow.id))).toEqual([]);
    expect(await scene.snapshot()).toEqual(before);
    expect(ports.telemetry.counts).toEqual(new Map([[METRICS.recordNotTerminal, 1]]));
  });

  it("fails for an outcome that the contract does not know, rather than take it for a failure", async () => {
    const scene = new Scene(valkey);
    const { parent } = await family(scene, 1);
    await scene.finish(parent, "success");
    await scene.read("hset", parent.core, "terminal_outcome", "mostly_harmless");
    const before = await scene.snapshot();
    const faults = await dispatchOne(portsOf(valkey, queue), eventOf(parent.id, scene.flow.id));
    expect(faults).toMatchObject([{ name: "InvalidRecordError" }]);
    expect(await scene.snapshot()).toEqual(before);
  });

  it("acknowledges an execution without edges", async () => {
    const scene = new Scene(valkey);
    const only = await scene.member();
    await scene.finish(only, "success");
    const ports = portsOf(valkey, queue);
    expect(await dispatchOne(ports, eventOf(only.id, scene.flow.id))).toEqual([]);
    expect(ports.telemetry.warnings).toEqual([]);
  });

  it("fails a message whose record cannot be read, and not the others of its batch", async () => {
    const scene = new Scene(valkey);
    const broken = await family(scene, 1);
    const sound = await family(scene, 1);
    await scene.finish(broken.parent, "success");
    await scene.finish(sound.parent, "success");
    await scene.read("del", broken.parent.core);
    await scene.read("set", broken.parent.core, "not a hash");
    const ports = portsOf(valkey, queue);
    const [first, second] = await dispatch(ports, [
      eventOf(broken.parent.id, scene.flow.id),
      eventOf(sound.parent.id, scene.flow.id),
    ]);
    expect(first).toMatchObject([{ name: "ValkeyError", retryable: true }]);
    expect(second).toEqual([]);
    expect(await Promise.all(sound.children.map((child) => stateOf(scene, child)))).toEqual(["waiting"]);
    expect(await Promise.all(broken.children.map((child) => stateOf(scene, child)))).toEqual([
      "waiting_children",
    ]);
  });

  it("fails a message whose edges cannot be read", async () => {
    const scene = new Scene(valkey);
    const { parent } = await family(scene, 1);
    await scene.finish(parent, "success");
    await scene.read("del", scene.flow.outgoing(parent.id));
    await scene.read("set", scene.flow.outgoing(parent.id), "not a set");
    const faults = await dispatchOne(portsOf(valkey, queue), eventOf(parent.id, scene.flow.id));
    expect(faults).toMatchObject([{ name: "ValkeyError" }]);
  });

  it("dispatches for a cancelled flow too: its members must not wait for ever", async () => {
    const scene = new Scene(valkey);
    const { parent, children } = await family(scene, 1);
    await scene.done(cancelFlow(scene.flow, scene.index, "enough", "cancel_all", 0));
    await scene.cancel(parent, "flow_cascade");
    expect(await dispatchOne(portsOf(valkey, queue), eventOf(parent.id, scene.flow.id))).toEqual([]);
    expect(await Promise.all(children.map((child) => stateOf(scene, child)))).toEqual(["skipped"]);
    await queue.drain();
  });
});
