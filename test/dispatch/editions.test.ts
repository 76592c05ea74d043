import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { EdgeGroupPolicy } from "#shared/contract/groups.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { finalStates, type ModelGraph } from "#test/dispatch/model.ts";
import { type Choice, graphs, runAtRandom } from "#test/dispatch/random-run.ts";
import { dispatchAll, dispatchOne, dispatchSetup, eventOf, stateOf } from "#test/support/dispatch.ts";
import { DEPLOYMENTS_14 } from "#test/support/valkey.ts";

const RUNS = 60;
const ANY_OF: EdgeGroupPolicy = { variant: "any_of", onSatisfied: "let_run" };
const TWO: EdgeGroupPolicy = { variant: "quorum", onSatisfied: "let_run", k: 2 };

const policies: fc.Arbitrary<EdgeGroupPolicy | undefined> = fc.oneof(
  fc.constant(undefined),
  fc.constant({ variant: "all_of" as const }),
  fc.record({
    variant: fc.constant("any_of" as const),
    onSatisfied: fc.constantFrom("let_run" as const, "cancel_remaining" as const),
  }),
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

describe.each(DEPLOYMENTS_14)("edge groups, with the 14-KEYS edition ($name)", (deployment) => {
  const setup = dispatchSetup(deployment);

  /** Upstreams, a child with an edge group over them, and a child of that child. */
  async function stage(policy: EdgeGroupPolicy, size: number) {
    const fixture = setup.flow();
    const [child, grandchild] = [await fixture.member(), await fixture.member()];
    await fixture.group(child, policy);
    const upstreams: ExecKeys[] = [];
    for (let number = 0; number < size; number += 1) {
      const upstream = await fixture.member();
      await fixture.edge(upstream, child);
      upstreams.push(upstream);
    }
    await fixture.edge(child, grandchild);
    const ports = setup.ports();
    const end = async (number: number, outcome: "success" | "failed") => {
      const upstream = upstreams[number];
      if (upstream === undefined) throw new RangeError("no such upstream");
      await fixture.finish(upstream, outcome);
      expect(await dispatchOne(ports, eventOf(upstream.id, fixture.flow.id))).toEqual([]);
      return stateOf(fixture, child);
    };
    return { fixture, child, grandchild, upstreams, ports, end };
  }

  it("any_of: the first success makes the child eligible; later deliveries change nothing", async () => {
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
    expect(await setup.queue.drain()).toEqual([]);
    expect(ports.telemetry.warnings).toEqual([]);
  });

  it("quorum: the child is skipped once when too few upstreams can succeed, and its own child with it", async () => {
    const { fixture, child, grandchild, upstreams, ports, end } = await stage(TWO, 3);
    expect(await end(0, "success")).toBe("waiting_children");
    expect(await end(1, "failed")).toBe("waiting_children");
    expect(await setup.queue.drainEvents()).toEqual([]);
    expect(await end(2, "failed")).toBe("skipped");
    const again = upstreams.map(({ id }) => eventOf(id, fixture.flow.id));
    expect((await dispatchAll(ports, again)).flat()).toEqual([]);
    const cascade = await setup.queue.drainEvents();
    expect(cascade).toMatchObject([{ executionId: child.id, depth: 1 }]);
    for (const event of cascade) expect(await dispatchOne(ports, event)).toEqual([]);
    expect(await stateOf(fixture, grandchild)).toBe("skipped");
    expect(await setup.queue.drainEvents()).toMatchObject([{ executionId: grandchild.id, depth: 2 }]);
  });

  it("a batch that satisfies a group several times decides it once", async () => {
    const { fixture, child, upstreams, ports } = await stage(ANY_OF, 3);
    for (const upstream of upstreams) await fixture.finish(upstream, "success");
    const events = upstreams.map(({ id }) => eventOf(id, fixture.flow.id));
    expect((await dispatchAll(ports, [...events, ...events])).flat()).toEqual([]);
    expect(await stateOf(fixture, child)).toBe("waiting");
    expect(ports.telemetry.counts.get("EdgesSatisfied")).toBe(1);
    expect(ports.telemetry.counts.get("EdgesCountedInGroup")).toBe(2);
  });

  it("a violated invariant fails the message once, with an error that is not retryable", async () => {
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

  it.each([false, true])(
    "random graphs with random groups end in the states of the model, with redeliveries (crashes: %s)",
    async (crashes) => {
      let [skippedInAll, cancelledInAll, decidedByGroups] = [0, 0, 0];
      await fc.assert(
        fc.asyncProperty(groupedGraphs, fc.infiniteStream(fc.nat()), async (graph, numbers) => {
          const pick: Choice = (below) => (numbers.next().value ?? 0) % below;
          const fixture = setup.flow();
          const { states, siblings, pendingGroups, published } = await runAtRandom(
            fixture,
            setup.queue,
            graph,
            pick,
            { crashes },
          );
          const expected = finalStates(graph, siblings);
          expect(states).toEqual(expected);
          // A dispatch that dies may leave a claim on a group. Deliveries before its end leave the group to the reconciler.
          if (!crashes) expect(pendingGroups).toEqual([]);
          for (const sibling of siblings) expect(mayBeCancelled(graph, sibling)).toBe(true);
          const skipped = expected.filter((state) => state === "skipped").length;
          // The reconciler publishes the siblings of a pending group.
          const publishedSiblings = pendingGroups.length === 0 ? siblings.size : 0;
          expect(published).toBeGreaterThanOrEqual(skipped + publishedSiblings);
          // A sibling of several groups may be published by each of the three batches that are in flight together.
          if (!crashes) expect(published).toBeLessThanOrEqual(2 * skipped + 3 * siblings.size);
          skippedInAll += skipped;
          cancelledInAll += siblings.size;
          const withoutGroups = finalStates({ outcomes: graph.outcomes, edges: graph.edges });
          if (withoutGroups.join() !== expected.join()) decidedByGroups += 1;
        }),
        { numRuns: RUNS },
      );
      // The generated groups must change the result, or the test proves nothing.
      expect(skippedInAll).toBeGreaterThan(RUNS / 8);
      // Only siblings that still run when their group is decided are cancelled: few, and their number varies.
      expect(cancelledInAll).toBeGreaterThan(0);
      expect(decidedByGroups).toBeGreaterThan(RUNS / 8);
    },
    180_000,
  );
});

/** Whether a task is an upstream of a group that cancels its siblings. */
function mayBeCancelled({ edges, groups }: ModelGraph, task: number): boolean {
  return edges.some(([up, down]) => {
    const policy = groups?.[down];
    return up === task && policy?.variant !== "all_of" && policy?.onSatisfied === "cancel_remaining";
  });
}
