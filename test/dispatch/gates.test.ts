import { describe, expect, it } from "vitest";
import { cancelFlow, replayExecution } from "#shared/contract/graph.ts";
import type { Completion } from "#shared/contract/message.ts";
import { parseDepthLimit } from "#shared/dispatch/depth-limit.ts";
import { dispatch } from "#shared/dispatch/dispatcher.ts";
import { PublishError } from "#shared/errors.ts";
import type { CompletionPublisher } from "#shared/queue/publisher.ts";
import { METRICS } from "#shared/runtime/telemetry.ts";
import { dispatchAll, dispatchOne, dispatchSetup, eventOf, family, stateOf } from "#test/support/dispatch.ts";
import { RoundCounter } from "#test/support/round-counter.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

const TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

function recordingPublisher() {
  const sent: Completion[] = [];
  const publisher: CompletionPublisher = {
    send: async (completions) => {
      sent.push(...completions);
      return completions.map(() => ({ ok: true }));
    },
  };
  return { publisher, sent };
}

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

  it("restarts a cascade above the depth limit at depth 0, later, and writes only a note for operators", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 1);
    await fixture.finish(parent, "failed");
    const { publisher, sent } = recordingPublisher();
    const ports = setup.ports({ maxCascadeDepth: 50, publisher });
    const before = await fixture.snapshot();
    const root = fixture.newExecution().id;
    const event = eventOf(parent.id, fixture.flow.id, { depth: 51, generation: 2, root, traceparent: TRACE });
    // Twice in one batch: the cascade restarts once.
    expect(await dispatch(ports, [event, event])).toEqual(
      Array(2).fill({ kind: "stopped", gate: "depth_limit" }),
    );
    const { [parent.depthLimit]: note, ...after } = await fixture.snapshot();
    expect(after).toEqual(before);
    expect(parseDepthLimit(String(note?.value))).toMatchObject({
      kind: "restarted",
      depth: 51,
      generation: 2,
    });
    expect(Number(note?.expiresAt)).toBeGreaterThan(Date.now());
    expect(sent).toEqual([
      {
        executionId: parent.id,
        flowId: fixture.flow.id,
        outcome: "",
        depth: 0,
        generation: 3,
        root,
        traceparent: TRACE,
        delaySeconds: 60,
      },
    ]);
    expect(ports.telemetry.counts).toEqual(new Map([[METRICS.depthLimitReached, 2]]));
    expect(ports.telemetry.warnings).toHaveLength(2);

    // At the limit it is dispatched; its children keep the generation.
    expect(await dispatchOne(ports, { ...event, depth: 50 })).toEqual([]);
    expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(["skipped"]);
    expect(sent.slice(1)).toMatchObject([{ executionId: children[0]?.id, depth: 51, generation: 2 }]);
  });

  it("retries a message whose restart the queue did not accept", async () => {
    const fixture = setup.flow();
    const { parent } = await family(fixture, 1);
    const event = eventOf(parent.id, fixture.flow.id, { depth: 51 });
    for (const answer of [[], [{ ok: false as const, error: new PublishError("no answer") }]]) {
      const ports = setup.ports({ publisher: { send: () => Promise.resolve(answer) } });
      expect(await dispatchOne(ports, event)).toMatchObject([{ name: "PublishError", retryable: true }]);
    }
  });

  it("does not restart what another message of the batch dispatches", async () => {
    const fixture = setup.flow();
    const { parent, children } = await family(fixture, 1);
    await fixture.finish(parent, "success");
    const { publisher, sent } = recordingPublisher();
    const event = eventOf(parent.id, fixture.flow.id);
    const results = await dispatch(setup.ports({ publisher }), [{ ...event, depth: 51 }, event]);
    expect(results).toEqual([{ kind: "dispatched" }, { kind: "dispatched" }]);
    expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(["waiting"]);
    expect(sent).toEqual([]);
  });

  it.each([20, 999_999_999_999_999])(
    "acknowledges a message above the depth limit in generation %d",
    async (generation) => {
      const fixture = setup.flow();
      const { publisher, sent } = recordingPublisher();
      const ports = setup.ports({ publisher });
      const event = eventOf(fixture.newExecution().id, fixture.flow.id, { depth: 51, generation });
      expect(await dispatch(ports, [event])).toEqual([{ kind: "stopped", gate: "depth_limit" }]);
      expect(sent).toEqual([]);
      expect(ports.telemetry.counts).toEqual(new Map([[METRICS.depthLimitReached, 1]]));
      expect(ports.telemetry.warnings).toMatchObject([{ message: expect.stringContaining("reconciler") }]);
    },
  );

  it.each([49, 50, 51, 999_999_999_999_999])(
    "a completion with depth %d that arrives before the real one does not end the cascade",
    async (depth) => {
      const fixture = setup.flow();
      const chain = [await fixture.member()];
      for (let level = 1; level <= 4; level += 1) {
        const child = await fixture.member();
        const parent = chain.at(-1);
        if (parent) await fixture.edge(parent, child);
        chain.push(child);
      }
      const [first, ...others] = chain;
      if (!first) throw new Error("the chain is empty");
      await fixture.finish(first, "failed");
      const ports = setup.ports({ restartDelaySeconds: 0 });
      const real = eventOf(first.id, fixture.flow.id);
      let events = [{ ...real, depth }];
      for (let round = 0; round < 20 && events.length > 0; round += 1) {
        for (const event of events) expect(await dispatchOne(ports, event)).toEqual([]);
        if (round === 0) expect(await dispatchOne(ports, real)).toEqual([]);
        events = await setup.queue.drainEvents();
      }
      expect(events).toEqual([]);
      expect(await Promise.all(others.map((child) => stateOf(fixture, child)))).toEqual(
        Array(4).fill("skipped"),
      );
    },
  );

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
