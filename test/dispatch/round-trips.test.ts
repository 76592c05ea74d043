import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Pipelines } from "#shared/contract/command.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { dispatchAll, dispatchOne, eventOf, family, portsOf, QueueProbe } from "#test/support/dispatch.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { RoundCounter } from "#test/support/round-counter.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS)("round trips for one message ($name)", ({ connect }) => {
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

  it.each([
    ["success", 1, 4],
    ["success", 500, 4],
    ["failed", 1, 5],
    ["failed", 500, 5],
  ] as const)("outcome %s, %i edges: %i", async (outcome, edges, expected) => {
    const fixture = new FlowFixture(valkey);
    const { parent } = await family(fixture, edges);
    await fixture.finish(parent, outcome);
    const counter = new RoundCounter(valkey);
    const ports = portsOf(valkey, queue, { valkey: counter });
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(counter.rounds).toBe(expected);
    expect(await queue.drain()).toHaveLength(outcome === "failed" ? edges : 0);
  });

  it("a batch shares them, whatever partitions its executions are in", async () => {
    const scenes = Array.from({ length: 10 }, () => new FlowFixture(valkey));
    const events = await Promise.all(
      scenes.map(async (fixture) => {
        const { parent } = await family(fixture, 3);
        await fixture.finish(parent, "success");
        return eventOf(parent.id, fixture.flow.id);
      }),
    );
    const counter = new RoundCounter(valkey);
    await dispatchAll(portsOf(valkey, queue, { valkey: counter }), events);
    expect(counter.rounds).toBe(4);
  });

  it("resolves what is read already while other edges of the same message are still read", async () => {
    const fixture = new FlowFixture(valkey);
    const { parent } = await family(fixture, 300);
    await fixture.finish(parent, "success");
    const called = Promise.withResolvers<void>();
    let reads = 0;
    const held: Pipelines = {
      pipelined: async (commands) => {
        const [first] = commands;
        if (first?.name === "fcall") called.resolve();
        // Of the edges, all but the first lot wait until somebody has been called.
        if (first?.name === "hget" && ++reads > 1) await called.promise;
        return valkey.pipelined(commands);
      },
    };
    expect(
      await dispatchOne(portsOf(valkey, queue, { valkey: held }), eventOf(parent.id, fixture.flow.id)),
    ).toEqual([]);
    expect(reads).toBeGreaterThan(1);
  });

  it("takes one without edges, and none without a flow", async () => {
    const fixture = new FlowFixture(valkey);
    const only = await fixture.member();
    await fixture.finish(only, "success");
    const counter = new RoundCounter(valkey);
    const ports = portsOf(valkey, queue, { valkey: counter });
    await dispatchOne(ports, eventOf(only.id, undefined));
    expect(counter.rounds).toBe(0);
    await dispatchOne(ports, eventOf(only.id, fixture.flow.id));
    expect(counter.rounds).toBe(1);
  });
});
