import { describe, expect, test } from "vitest";
import { setEdgeGroupPolicy } from "#shared/contract/groups.ts";
import type { TerminalOutcome } from "#shared/contract/record.ts";
import { ANY_OF, groupedChild, groupOf, NOW, TWO } from "#test/lua/grouped-child.ts";
import { expectOnlyIn, expectRefusal, fixturesOn } from "#test/support/expectations.ts";
import { field } from "#test/support/flow-fixture.ts";
import { ACTIVE, BLOCKED, ended, WAITING } from "#test/support/states.ts";
import { DEPLOYMENTS_14 } from "#test/support/valkey.ts";

const NOT_SUCCESS: readonly TerminalOutcome[] = ["failed", "cancelled", "expired", "skipped"];

describe.each(DEPLOYMENTS_14)("edge groups ($name)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test("creates an all_of group for the first edge without a policy, and counts each edge", async () => {
    const fixture = newFixture();
    const { child, edges } = await groupedChild(fixture, undefined, 1);
    const first = { policy_variant: "all_of", n: "1", succeeded: "0", group_state: "pending" };
    expect(await groupOf(fixture, child)).toEqual(first);
    await fixture.edge(await fixture.member(), child);
    expect(await groupOf(fixture, child)).toEqual({ ...first, n: "2" });
    for (const edge of edges) {
      expect(await fixture.done(fixture.apply(edge, child, 9, NOW))).toEqual(["already_applied"]);
    }
    expect(await groupOf(fixture, child)).toEqual({ ...first, n: "2" });
    await expectRefusal(
      fixture,
      setEdgeGroupPolicy(fixture.flow, child.id, ANY_OF, NOW),
      "invalid_input",
      "dependencies_applied",
    );
  });

  test("all_of: counts edges, and is satisfied with the last one", async () => {
    const fixture = newFixture();
    const { child, resolve } = await groupedChild(fixture, { variant: "all_of" }, 2);
    expect(await resolve(0, "success")).toEqual(["satisfied", ""]);
    expect(await groupOf(fixture, child)).toMatchObject({ succeeded: "1", group_state: "pending" });
    expect(await resolve(1, "success")).toEqual(["satisfied", ""]);
    expect(await groupOf(fixture, child)).toMatchObject({
      succeeded: "2",
      failed: "0",
      group_state: "satisfied",
    });
    expect(await fixture.hash(child.core)).toMatchObject(WAITING);
  });

  test.each(NOT_SUCCESS)("all_of: counts %s as failed, and stays impossible", async (outcome) => {
    const fixture = newFixture();
    const { child, resolve } = await groupedChild(fixture, undefined, 2);
    expect(await resolve(0, outcome)).toEqual(["impossible", "child_skipped"]);
    expect(await groupOf(fixture, child)).toMatchObject({ failed: "1", group_state: "impossible" });
    expect(await resolve(1, "success")).toEqual(["satisfied", ""]);
    const group = await groupOf(fixture, child);
    expect(group).toMatchObject({ n: "2", succeeded: "1", failed: "1", group_state: "impossible" });
    expect(field(group, "skipped")).toBeUndefined();
  });

  test("resolves edges without a group if they were applied without one", async () => {
    const fixture = newFixture();
    const { child, resolve } = await groupedChild(fixture, undefined, 1);
    await fixture.read("del", fixture.flow.edgeGroup(child.id));
    expect(await resolve(0, "success")).toEqual(["satisfied", ""]);
    expect(await fixture.hash(child.core)).toMatchObject(WAITING);
    expect(await fixture.read("exists", fixture.flow.edgeGroup(child.id))).toBe(0);
  });

  test("any_of: releases the child with the first success", async () => {
    const fixture = newFixture();
    const { child, edges, resolve } = await groupedChild(fixture, ANY_OF, 3);
    const meta = await fixture.hash(child.depsMeta);
    expect(await resolve(0, "failed")).toEqual(["pending", ""]);
    expect(await fixture.hash(child.core)).toMatchObject(BLOCKED);
    expect(await resolve(1, "success", NOW + 1)).toEqual(["satisfied", ""]);
    const core = await fixture.hash(child.core);
    expect(core).toMatchObject({
      ...WAITING,
      attempt_state: "pending_first_attempt",
      last_transition_at: String(NOW + 1),
    });
    await expectOnlyIn(fixture, child, "eligible", Number(field(core, "created_at")) - 3e12);
    expect(await groupOf(fixture, child)).toEqual({
      policy_variant: "any_of",
      on_satisfied: "let_run",
      k: "1",
      n: "3",
      succeeded: "1",
      failed: "1",
      skipped: "0",
      group_state: "satisfied",
      satisfied_at: String(NOW + 1),
      created_at: String(NOW),
    });
    expect(await fixture.read("exists", fixture.index.pendingCancelGroups)).toBe(0);
    const deps = await Promise.all(edges.map(({ id }) => fixture.hash(child.dep(id))));
    expect(deps).toMatchObject([
      { state: "impossible", last_resolved_at: String(NOW) },
      { state: "satisfied", last_resolved_at: String(NOW + 1) },
      { state: "unsatisfied" },
    ]);
    expect(await fixture.read("smembers", child.depsUnresolved)).toEqual([edges[2]?.id]);

    // The third edge is counted and changes nothing else, although the child has been claimed in the meantime.
    await fixture.claim(child);
    expect(await resolve(2, "failed", NOW + 2)).toEqual(["already_fired", ""]);
    expect(await fixture.hash(child.core)).toMatchObject(ACTIVE);
    expect(await groupOf(fixture, child)).toMatchObject({ failed: "2", group_state: "satisfied" });
    expect(await fixture.hash(child.depsMeta)).toEqual(meta);
    expect(await fixture.read("exists", child.depsUnresolved)).toBe(0);
  });

  test("any_of: skips the child only after the last edge did not succeed", async () => {
    const fixture = newFixture();
    const { child, resolve } = await groupedChild(fixture, ANY_OF, 4);
    const meta = await fixture.hash(child.depsMeta);
    expect(await resolve(0, "failed")).toEqual(["pending", ""]);
    expect(await resolve(1, "skipped")).toEqual(["pending", ""]);
    expect(await resolve(2, "expired")).toEqual(["pending", ""]);
    expect(await resolve(3, "cancelled", NOW + 3)).toEqual(["impossible", "child_skipped"]);
    const group = await groupOf(fixture, child);
    expect(group).toMatchObject({ succeeded: "0", failed: "3", skipped: "1", group_state: "impossible" });
    expect(field(group, "satisfied_at")).toBeUndefined();
    expect(await fixture.hash(child.core)).toMatchObject({
      ...ended("skipped"),
      attempt_state: "none",
      completed_at: String(NOW + 3),
    });
    await expectOnlyIn(fixture, child, "terminal", NOW + 3);
    expect(await fixture.hash(child.depsMeta)).toEqual(meta);
  });

  test("quorum: releases the child with the k-th success, and replies already_fired to the next", async () => {
    const fixture = newFixture();
    const { child, resolve } = await groupedChild(fixture, TWO, 3);
    expect(await resolve(2, "success")).toEqual(["pending", ""]);
    expect(await resolve(0, "success")).toEqual(["satisfied", ""]);
    expect(await resolve(1, "success")).toEqual(["already_fired", ""]);
    expect(await groupOf(fixture, child)).toMatchObject({ succeeded: "3", group_state: "satisfied" });
    expect(await fixture.hash(child.core)).toMatchObject(WAITING);
  });

  test("quorum: skips the child once too few edges are left, and a later success does not release it", async () => {
    const fixture = newFixture();
    const { child, resolve } = await groupedChild(fixture, TWO, 3);
    expect(await resolve(0, "failed")).toEqual(["pending", ""]);
    expect(await resolve(1, "skipped")).toEqual(["impossible", "child_skipped"]);
    const core = await fixture.hash(child.core);
    expect(await resolve(2, "success")).toEqual(["already_fired", ""]);
    expect(await fixture.hash(child.core)).toEqual(core);
    expect(await groupOf(fixture, child)).toMatchObject({
      succeeded: "1",
      failed: "1",
      skipped: "1",
      group_state: "impossible",
    });
  });

  test("quorum: is impossible with the first edge if k exceeds the number of edges", async () => {
    const fixture = newFixture();
    const { resolve } = await groupedChild(fixture, TWO, 1);
    expect(await resolve(0, "success")).toEqual(["impossible", "child_skipped"]);
  });
});
