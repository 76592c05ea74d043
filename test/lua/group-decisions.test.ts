import { describe, expect, test } from "vitest";
import { decodeResolution } from "#shared/contract/resolve.ts";
import { ANY_OF, groupedChild, groupOf, NOW, TWO } from "#test/lua/grouped-child.ts";
import { expectOnlyIn, expectRefusal, fixturesOn } from "#test/support/expectations.ts";
import { attempt } from "#test/support/flow-fixture.ts";
import { ACTIVE, BLOCKED, WAITING } from "#test/support/states.ts";
import { DEPLOYMENTS_14 } from "#test/support/valkey.ts";

describe.each(DEPLOYMENTS_14)("group decisions ($name)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test.each([
    ["satisfied", "success", "sibling_quorum_satisfied"],
    ["impossible", "failed", "sibling_quorum_impossible"],
  ] as const)(
    "cancel_remaining records the unfinished upstreams of a group that is %s",
    async (state, outcome, reason) => {
      const fixture = newFixture();
      const { child, upstreams, resolve } = await groupedChild(
        fixture,
        { variant: "quorum", onSatisfied: "cancel_remaining", k: state === "satisfied" ? 1 : 5 },
        5,
      );
      const [first, claimed, finished, gone, waiting] = upstreams;
      if (!first || !claimed || !finished || !gone || !waiting) throw new RangeError("five upstreams");
      // An execution that is no upstream, and an upstream with two edges.
      await fixture.edge(await fixture.member(), first);
      await fixture.stage(fixture.newEdge(waiting, child));
      await fixture.cancel(first);
      await fixture.claim(claimed);
      await fixture.finish(finished, "success");
      await fixture.read("del", gone.core);
      expect((await resolve(0, outcome))[0]).toBe(state);
      const { cancel_siblings_pending_members: members = "", ...group } = await groupOf(fixture, child);
      expect(members.split("|").sort()).toEqual([claimed.id, waiting.id].sort());
      expect(group).toMatchObject({
        group_state: state,
        cancel_siblings_pending_flag: "true",
        cancel_siblings_reason: reason,
      });
      expect(await fixture.read("smembers", fixture.index.pendingCancelGroups)).toEqual([
        `${fixture.flow.id}|${child.id}`,
      ]);
      // The function only records them and cancels no execution.
      expect(await fixture.hash(waiting.core)).toMatchObject(WAITING);
      expect(await fixture.hash(claimed.core)).toMatchObject(ACTIVE);
    },
  );

  test("passes data only with the deciding success", async () => {
    const fixture = newFixture();
    const { child, upstreams, resolve } = await groupedChild(fixture, TWO, 4, "input");
    for (const [number, upstream] of upstreams.entries()) {
      await fixture.finish(upstream, "success", `from ${number}`);
    }
    expect(await resolve(0, "success")).toEqual(["pending", ""]);
    expect(await fixture.read("exists", child.payload)).toBe(0);
    expect(await resolve(1, "success")).toEqual(["satisfied", "data_injected"]);
    expect(await fixture.read("get", child.payload)).toBe("from 1");
    expect(await resolve(2, "success")).toEqual(["already_fired", ""]);
    expect(await fixture.read("get", child.payload)).toBe("from 1");
  });

  test("copies nothing without a data_passing_ref or a result", async () => {
    const fixture = newFixture();
    const unasked = await groupedChild(fixture, ANY_OF, 1);
    for (const upstream of unasked.upstreams) await fixture.finish(upstream, "success", "result");
    expect(await unasked.resolve(0, "success")).toEqual(["satisfied", ""]);
    expect(await fixture.read("exists", unasked.child.payload)).toBe(0);
    const missing = await groupedChild(fixture, ANY_OF, 1, "input");
    expect(await missing.resolve(0, "success")).toEqual(["satisfied", ""]);
    expect(await fixture.read("exists", missing.child.payload)).toBe(0);
  });

  test.each(["success", "failed"] as const)(
    "does not change a terminal child (decided by %s)",
    async (outcome) => {
      const fixture = newFixture();
      const { child, upstreams, resolve } = await groupedChild(fixture, ANY_OF, 1, "input");
      for (const upstream of upstreams) await fixture.finish(upstream, "success", "result");
      await fixture.cancel(child);
      const core = await fixture.hash(child.core);
      expect(await resolve(0, outcome)).toEqual([outcome === "success" ? "satisfied" : "impossible", ""]);
      expect(await fixture.hash(child.core)).toEqual(core);
      expect(await fixture.read("exists", child.payload)).toBe(0);
    },
  );

  test.each(["success", "failed"] as const)(
    "decides the group of a child without a record (%s)",
    async (outcome) => {
      const fixture = newFixture();
      const { child, resolve } = await groupedChild(fixture, ANY_OF, 1, "input");
      await fixture.read("del", child.core);
      const before = Object.keys(await fixture.snapshot());
      const state = outcome === "success" ? "satisfied" : "impossible";
      expect(await resolve(0, outcome)).toEqual([state, ""]);
      expect(await groupOf(fixture, child)).toMatchObject({ group_state: state });
      expect(Object.keys(await fixture.snapshot())).toEqual(
        before.filter((key) => key !== child.depsUnresolved),
      );
    },
  );

  test("ends the running attempt of a skipped child", async () => {
    const fixture = newFixture();
    const child = await fixture.member();
    await fixture.claim(child);
    await fixture.group(child, ANY_OF);
    const edge = await fixture.edge(await fixture.member(), child);
    const skipped = await fixture.done(fixture.resolution(edge, "failed", NOW));
    expect(skipped).toEqual(["impossible", "child_skipped"]);
    expect(await fixture.hash(child.attempt(attempt(0)))).toMatchObject({
      attempt_state: "ended_cancelled",
      ended_at: String(NOW),
    });
  });

  test("refuses a resolution beyond the applied edges once, after writing and counting the edge", async () => {
    const fixture = newFixture();
    const { child, edges, resolve } = await groupedChild(fixture, ANY_OF, 2);
    await fixture.read("hset", fixture.flow.edgeGroup(child.id), "n", "1");
    expect(await resolve(0, "success")).toEqual(["satisfied", ""]);
    const [, second] = edges;
    if (second === undefined) throw new RangeError("two edges");
    const command = fixture.resolution(second, "skipped", NOW);
    const core = await fixture.hash(child.core);
    const raw = await fixture.read(command.name, ...command.args);
    expect(raw).toEqual([0, "invariant_violation", "2", "1"]);
    expect(decodeResolution(raw)).toMatchObject({ ok: true, value: { code: "invariant_violation" } });
    expect(await groupOf(fixture, child)).toMatchObject({
      succeeded: "1",
      skipped: "1",
      group_state: "satisfied",
    });
    expect(await fixture.hash(child.dep(second.id))).toMatchObject({ state: "impossible" });
    expect(await fixture.read("exists", child.depsUnresolved)).toBe(0);
    expect(await fixture.hash(child.core)).toEqual(core);
    const before = await fixture.snapshot();
    expect(await fixture.done(command)).toEqual(["already_resolved"]);
    expect(await fixture.snapshot()).toEqual(before);
  });

  test("does not decide a group with more resolved than applied edges", async () => {
    const fixture = newFixture();
    const { child, edges } = await groupedChild(fixture, ANY_OF, 1);
    await fixture.read("hset", fixture.flow.edgeGroup(child.id), "n", "0");
    const [edge] = edges;
    if (edge === undefined) throw new RangeError("one edge");
    const reply = await fixture.call(fixture.resolution(edge, "success", NOW));
    expect(reply).toEqual({ kind: "refused", code: "invariant_violation", detail: ["1", "0"] });
    expect(await fixture.hash(child.core)).toMatchObject(BLOCKED);
    expect(await groupOf(fixture, child)).toMatchObject({ succeeded: "1", group_state: "pending" });
  });

  test.each([ANY_OF, TWO, { variant: "all_of" }] as const)(
    "resolves an edge of $variant once, and refuses a malformed now_ms before any write",
    async (policy) => {
      const fixture = newFixture();
      const { edges } = await groupedChild(fixture, policy, 3);
      const [edge] = edges;
      if (edge === undefined) throw new RangeError("three edges");
      await expectRefusal(
        fixture,
        fixture.resolution(edge, "success", Number.NaN),
        "invalid_input",
        "now_ms",
      );
      await fixture.done(fixture.resolution(edge, "success", NOW));
      const before = await fixture.snapshot();
      for (const again of ["success", "failed", "skipped"] as const) {
        expect(await fixture.done(fixture.resolution(edge, again, NOW + 1))).toEqual(["already_resolved"]);
      }
      expect(await fixture.snapshot()).toEqual(before);
    },
  );

  test("does not block the child for an edge applied to a satisfied group", async () => {
    const fixture = newFixture();
    const { child, resolve } = await groupedChild(fixture, ANY_OF, 1);
    await resolve(0, "success");
    const late = await fixture.edge(await fixture.member(), child);
    expect(await fixture.hash(child.core)).toMatchObject(WAITING);
    await expectOnlyIn(fixture, child, "eligible");
    expect(await groupOf(fixture, child)).toMatchObject({ n: "2" });
    expect(await fixture.done(fixture.resolution(late, "failed", NOW))).toEqual(["already_fired", ""]);
  });

  test("treats a lost k as 1, so that a group needs at least one success", async () => {
    const fixture = newFixture();
    const { child, resolve } = await groupedChild(fixture, TWO, 2);
    await fixture.read("hset", fixture.flow.edgeGroup(child.id), "k", "");
    expect(await resolve(0, "failed")).toEqual(["pending", ""]);
    expect(await resolve(1, "success")).toEqual(["satisfied", ""]);
    expect(await fixture.hash(child.core)).toMatchObject(WAITING);
  });
});
