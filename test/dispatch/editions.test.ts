import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startValkey, startValkeyCluster } from "#local/valkey-server.ts";
import type { EdgeGroupPolicy } from "#shared/contract/groups.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import type { ValkeyAddress } from "#shared/valkey/address.ts";
import type { Valkey } from "#shared/valkey/client.ts";
import { ensureLibrary } from "#shared/valkey/library.ts";
import { detectEdition } from "#shared/valkey/start-up.ts";
import { finalStates, type ModelGraph } from "#test/dispatch/model.ts";
import { type Choice, graphs, runAtRandom } from "#test/dispatch/random-run.ts";
import {
  dispatchAll,
  dispatchOne,
  eventOf,
  family,
  portsOf,
  QueueProbe,
  RecordedTelemetry,
  stateOf,
} from "#test/support/dispatch.ts";
import { FlowFixture } from "#test/support/flow-fixture.ts";
import { connectTo, DEPLOYMENTS_14, onEveryPrimary } from "#test/support/valkey.ts";

const RUNS = 60;
const ANY_OF: EdgeGroupPolicy = { variant: "any_of", onSatisfied: "cancel_remaining" };
const TWO: EdgeGroupPolicy = { variant: "quorum", onSatisfied: "let_run", k: 2 };

const policies: fc.Arbitrary<EdgeGroupPolicy | undefined> = fc.oneof(
  fc.constant(undefined),
  fc.constant({ variant: "all_of" as const }),
  fc.constant(ANY_OF),
  fc.record({
    variant: fc.constant("quorum" as const),
    onSatisfied: fc.constantFrom("let_run" as const, "cancel_remaining" as const),
    k: fc.integer({ min: 1, max: 4 }),
  }),
);

const groupedGraphs: fc.Arbitrary<ModelGraph> = graphs.chain((graph) =>
  fc
    .array(policies, { minLength: graph.outcomes.length, maxLength: graph.outcomes.length })
    .map((groups) => ({ ...graph, groups })),
);

describe.each(DEPLOYMENTS_14)("groups, dispatched to the 14-KEYS edition ($name)", ({ connect }) => {
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

  /** Upstreams, a child that a group stands for, and a child of that child. */
  async function stage(policy: EdgeGroupPolicy, size: number) {
    const fixture = new FlowFixture(valkey, undefined, undefined, 14);
    const [child, grandchild] = [await fixture.member(), await fixture.member()];
    await fixture.group(child, policy);
    const upstreams: ExecKeys[] = [];
    for (let number = 0; number < size; number += 1) {
      const upstream = await fixture.member();
      await fixture.edge(upstream, child);
      upstreams.push(upstream);
    }
    await fixture.edge(child, grandchild);
    const ports = portsOf(valkey, queue, { edition: 14 });
    const end = async (number: number, outcome: "success" | "failed") => {
      const upstream = upstreams[number];
      if (upstream === undefined) throw new RangeError("no such upstream");
      await fixture.finish(upstream, outcome);
      expect(await dispatchOne(ports, eventOf(upstream.id, fixture.flow.id))).toEqual([]);
      return stateOf(fixture, child);
    };
    return { fixture, child, grandchild, upstreams, ports, end };
  }

  it("any_of: the first success makes the child eligible, once", async () => {
    const { fixture, child, upstreams, ports, end } = await stage(ANY_OF, 3);
    expect(await end(0, "failed")).toBe("waiting_children");
    expect(await end(1, "success")).toBe("waiting");
    await fixture.finish(child, "success");
    expect(await end(2, "success")).toBe("completed");
    expect(ports.telemetry.counts.get("EdgesCountedInGroup")).toBe(2);
    expect(ports.telemetry.counts.get("EdgesSatisfied")).toBe(1);
    const again = upstreams.map(({ id }) => eventOf(id, fixture.flow.id));
    expect((await dispatchAll(ports, again)).flat()).toEqual([]);
    expect(await stateOf(fixture, child)).toBe("completed");
    expect(await queue.drain()).toEqual([]);
    expect(ports.telemetry.warnings).toEqual([]);
  });

  it("quorum: too few successes skip the child once, and its own children with it", async () => {
    const { fixture, child, grandchild, upstreams, ports, end } = await stage(TWO, 3);
    expect(await end(0, "success")).toBe("waiting_children");
    expect(await end(1, "failed")).toBe("waiting_children");
    expect(await queue.drainEvents()).toEqual([]);
    expect(await end(2, "failed")).toBe("skipped");
    const again = upstreams.map(({ id }) => eventOf(id, fixture.flow.id));
    expect((await dispatchAll(ports, again)).flat()).toEqual([]);
    const cascade = await queue.drainEvents();
    expect(cascade).toMatchObject([{ executionId: child.id, depth: 1 }]);
    for (const event of cascade) expect(await dispatchOne(ports, event)).toEqual([]);
    expect(await stateOf(fixture, grandchild)).toBe("skipped");
    expect(await queue.drainEvents()).toMatchObject([{ executionId: grandchild.id, depth: 2 }]);
  });

  it("a batch that decides a group twice over decides it once", async () => {
    const { fixture, child, upstreams, ports } = await stage(ANY_OF, 3);
    for (const upstream of upstreams) await fixture.finish(upstream, "success");
    const events = upstreams.map(({ id }) => eventOf(id, fixture.flow.id));
    expect((await dispatchAll(ports, [...events, ...events])).flat()).toEqual([]);
    expect(await stateOf(fixture, child)).toBe("waiting");
    expect(ports.telemetry.counts.get("EdgesSatisfied")).toBe(1);
    expect(ports.telemetry.counts.get("EdgesCountedInGroup")).toBe(2);
  });

  it("an invariant that does not hold fails the message once, and not for a retry", async () => {
    const { fixture, child, upstreams, ports } = await stage(ANY_OF, 1);
    await fixture.read("hset", fixture.flow.edgeGroup(child.id), "n", "0");
    for (const upstream of upstreams) {
      await fixture.finish(upstream, "success");
      const event = eventOf(upstream.id, fixture.flow.id);
      const [fault, ...others] = await dispatchOne(ports, event);
      expect(fault).toMatchObject({ name: "RefusedError", code: "invariant_violation", retryable: false });
      expect(others).toEqual([]);
      expect(await dispatchOne(ports, event)).toEqual([]);
    }
  });

  it("random graphs with random groups end as the model says, whatever is delivered again", async () => {
    let [skippedInAll, decidedByGroups] = [0, 0];
    await fc.assert(
      fc.asyncProperty(groupedGraphs, fc.infiniteStream(fc.nat()), async (graph, numbers) => {
        const pick: Choice = (below) => (numbers.next().value ?? 0) % below;
        const fixture = new FlowFixture(valkey, undefined, undefined, 14);
        const { states, published } = await runAtRandom(fixture, queue, graph, pick);
        const expected = finalStates(graph);
        expect(states).toEqual(expected);
        const skipped = expected.filter((state) => state === "skipped").length;
        expect(published).toBeGreaterThanOrEqual(skipped);
        expect(published).toBeLessThanOrEqual(2 * skipped);
        skippedInAll += skipped;
        const withoutGroups = finalStates({ outcomes: graph.outcomes, edges: graph.edges });
        if (withoutGroups.join() !== expected.join()) decidedByGroups += 1;
      }),
      { numRuns: RUNS },
    );
    // A generator whose groups change nothing would prove nothing.
    expect(skippedInAll).toBeGreaterThan(RUNS / 8);
    expect(decidedByGroups).toBeGreaterThan(RUNS / 8);
  }, 180_000);
});

// Servers of their own: the library of the shared ones is in use.
describe.each([false, true])("finding the edition, on a cluster: %s", (cluster) => {
  async function on(check: (valkey: Valkey, address: ValkeyAddress) => Promise<void>): Promise<void> {
    await using server = cluster ? await startValkeyCluster() : await startValkey();
    const address = { url: server.url, cluster };
    const valkey = connectTo(address);
    try {
      await check(valkey, address);
    } finally {
      valkey.close();
    }
  }

  it.each([11, 14] as const)("auto speaks the %i-KEYS edition that it finds", (edition) =>
    on(async (valkey) => {
      await ensureLibrary(valkey, edition);
      const load = async () => {
        throw new Error("it is loaded already");
      };
      expect(await detectEdition(valkey, { edition: "auto" }, load, new RecordedTelemetry())).toBe(edition);
      await using queue = await QueueProbe.start();
      const fixture = new FlowFixture(valkey, undefined, undefined, edition);
      const { parent, children } = await family(fixture, 3);
      await fixture.finish(parent, "failed");
      const ports = portsOf(valkey, queue, { edition });
      expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
      expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(
        Array(3).fill("skipped"),
      );
      expect(await queue.drain()).toHaveLength(3);
    }),
  );

  it("calls of one edition to the other's library fail the message, and change nothing", () =>
    on(async (valkey) => {
      await ensureLibrary(valkey, 14);
      await using queue = await QueueProbe.start();
      const fixture = new FlowFixture(valkey, undefined, undefined, 14);
      const { parent, children } = await family(fixture, 2);
      await fixture.finish(parent, "failed");
      const before = await fixture.snapshot();
      const errors = await dispatchOne(
        portsOf(valkey, queue, { edition: 11 }),
        eventOf(parent.id, fixture.flow.id),
      );
      expect(errors).toMatchObject([{ name: "ValkeyError" }, { name: "ValkeyError" }]);
      expect(await fixture.snapshot()).toEqual(before);
      expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(
        Array(2).fill("waiting_children"),
      );
    }));

  it("a library that is lost amid a dispatch comes back in the edition that is detectedEdition", () =>
    on(async (valkey) => {
      await ensureLibrary(valkey, 14);
      await using queue = await QueueProbe.start();
      const fixture = new FlowFixture(valkey, undefined, undefined, 14);
      const { parent, children } = await family(fixture, 3);
      await fixture.finish(parent, "success");
      await onEveryPrimary(valkey, "function", "FLUSH", "SYNC");
      const ports = portsOf(valkey, queue, {
        edition: 14,
        ensureLibrary: async () => {
          expect(await ensureLibrary(valkey, "auto", 14)).toBe("loaded");
        },
      });
      expect(await dispatchOne(ports, eventOf(parent.id, fixture.flow.id))).toEqual([]);
      expect(await Promise.all(children.map((child) => stateOf(fixture, child)))).toEqual(
        Array(3).fill("waiting"),
      );
    }));
});
