import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { finalStates } from "#test/dispatch/model.ts";
import { type Choice, graphs, runAtRandom } from "#test/dispatch/random-run.ts";
import { dispatchAll, dispatchSetup, eventOf, stateOf } from "#test/support/dispatch.ts";
import { DEPLOYMENTS } from "#test/support/valkey.ts";

const RUNS = 60;

describe.each(DEPLOYMENTS)(
  "random graphs with random outcomes and random deliveries ($name)",
  (deployment) => {
    const setup = dispatchSetup(deployment);

    it.each([
      ["concurrent deliveries publish each skipped child at most twice", { crashes: false }],
      ["crashes before and after publishing lose no message", { crashes: true }],
    ])(
      "end in the states of the model, with every message delivered three times: %s",
      async (_, options) => {
        let runs = 0;
        let skippedInAll = 0;
        await fc.assert(
          fc.asyncProperty(graphs, fc.infiniteStream(fc.nat()), async (graph, numbers) => {
            const pick: Choice = (below) => (numbers.next().value ?? 0) % below;
            const run = await runAtRandom(setup.flow(), setup.queue, graph, pick, options);
            const expected = finalStates(graph);
            expect(run.states).toEqual(expected);
            expect(run.indexed).toEqual({ terminal: expected.length });
            const skipped = expected.filter((state) => state === "skipped").length;
            expect(run.published).toBeGreaterThanOrEqual(skipped);
            if (!options.crashes) expect(run.published).toBeLessThanOrEqual(2 * skipped);
            runs += 1;
            skippedInAll += skipped;
          }),
          { numRuns: RUNS },
        );
        // The generator must make failures too, or the test proves nothing.
        expect(runs).toBeGreaterThanOrEqual(RUNS);
        expect(skippedInAll).toBeGreaterThan(RUNS / 4);
      },
      180_000,
    );

    it("a failed root skips all 160 nodes of a fully connected graph, 20 wide and 8 deep", async () => {
      const [WIDTH, DEPTH] = [20, 8];
      const fixture = setup.flow();
      const root = await fixture.member();
      let layer = [root];
      const all: ExecKeys[] = [];
      for (let level = 0; level < DEPTH; level += 1) {
        const next = await Promise.all(Array.from({ length: WIDTH }, () => fixture.member()));
        for (const upstream of layer) for (const downstream of next) await fixture.edge(upstream, downstream);
        all.push(...next);
        layer = next;
      }
      await fixture.finish(root, "failed");
      const ports = setup.ports();
      let events = [eventOf(root.id, fixture.flow.id)];
      let published = 0;
      let deepest = 0;
      while (events.length > 0) {
        // Deliver every message twice, the second time in reverse order.
        for (const delivery of [events, events.toReversed()]) {
          for (let start = 0; start < delivery.length; start += 10) {
            expect((await dispatchAll(ports, delivery.slice(start, start + 10))).flat()).toEqual([]);
          }
        }
        events = await setup.queue.drainEvents();
        published += events.length;
        deepest = Math.max(deepest, ...events.map(({ depth }) => depth));
      }
      expect(new Set(await Promise.all(all.map((task) => stateOf(fixture, task))))).toEqual(
        new Set(["skipped"]),
      );
      expect(published).toBe(WIDTH * DEPTH);
      expect(deepest).toBe(DEPTH);
      expect(await fixture.read("zcard", fixture.index.lane(fixture.lane).blockedDependencies)).toBe(0);
    }, 120_000);
  },
);
