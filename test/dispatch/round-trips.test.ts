import { describe, expect, it } from "vitest";
import type { Pipelines } from "#shared/contract/command.ts";
import { dispatchAll, dispatchOne, dispatchSetup, eventOf, family } from "#test/support/dispatch.ts";
import { RoundCounter } from "#test/support/round-counter.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS)("round trips for one message ($name)", (deployment) => {
  const setup = dispatchSetup(deployment);

  it.each([
    ["success", 1, 4],
    ["success", 500, 4],
    ["failed", 1, 5],
    ["failed", 500, 5],
  ] as const)("outcome %s, %i edges: %i round trips", async (outcome, edges, expected) => {
    const fixture = setup.flow();
    const { parent } = await family(fixture, edges);
    await fixture.finish(parent, outcome);
    const counter = new RoundCounter(setup.valkey);
    const ports = setup.ports({ valkey: counter });
    expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(counter.rounds).toBe(expected);
    expect(await setup.queue.drain()).toHaveLength(outcome === "failed" ? edges : 0);
  });

  it("a batch over 10 partitions needs 4 round trips in all", async () => {
    const flows = Array.from({ length: 10 }, () => setup.flow());
    const events = await Promise.all(
      flows.map(async (fixture) => {
        const { parent } = await family(fixture, 3);
        await fixture.finish(parent, "success");
        return eventOf(parent.id, fixture.flow.id);
      }),
    );
    const counter = new RoundCounter(setup.valkey);
    await dispatchAll(setup.ports({ valkey: counter }), events);
    expect(counter.rounds).toBe(4);
  });

  it("resolves the edges that are read already while others of the same message are still being read", async () => {
    const fixture = setup.flow();
    const { parent } = await family(fixture, 300);
    await fixture.finish(parent, "success");
    const called = Promise.withResolvers<void>();
    let reads = 0;
    const held: Pipelines = {
      pipelined: async (commands) => {
        const [first] = commands;
        if (first?.name === "fcall") called.resolve();
        // All reads of edges but the first wait for the first call of a library function.
        if (first?.name === "hget" && ++reads > 1) await called.promise;
        return setup.valkey.pipelined(commands);
      },
    };
    expect(await dispatchOne(setup.ports({ valkey: held }), eventOf(parent.id, fixture.flow.id))).toEqual([]);
    expect(reads).toBeGreaterThan(1);
  });

  it("no edges: 1 round trip; no flow: none", async () => {
    const fixture = setup.flow();
    const only = await fixture.member();
    await fixture.finish(only, "success");
    const counter = new RoundCounter(setup.valkey);
    const ports = setup.ports({ valkey: counter });
    await dispatchOne(ports, eventOf(only.id, undefined));
    expect(counter.rounds).toBe(0);
    await dispatchOne(ports, eventOf(only.id, fixture.flow.id));
    expect(counter.rounds).toBe(1);
  });
});
