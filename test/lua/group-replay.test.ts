import { describe, expect, test } from "vitest";
import {
  evaluateFlowEligibility,
  promoteBlockedToEligible,
  replayExecution,
} from "#shared/contract/graph.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { ANY_OF, type GroupedChild, groupedChild, groupOf, NOW, TWO } from "#test/lua/grouped-child.ts";
import { expectOnlyIn, expectRefusal, fixturesOn } from "#test/support/expectations.ts";
import { type FlowFixture, field } from "#test/support/flow-fixture.ts";
import { BLOCKED, ended, WAITING } from "#test/support/states.ts";
import { DEPLOYMENTS_14 } from "#test/support/valkey.ts";

function replay(fixture: FlowFixture, { child, edges }: GroupedChild, reopened = edges) {
  const ids = reopened.map(({ id }) => id);
  return replayExecution(child, fixture.index, fixture.lane, ids, NOW);
}

describe.each(DEPLOYMENTS_14)("replay of a child that its group skipped ($name)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test("any_of: the child waits again, and the group can decide again", async () => {
    const fixture = newFixture();
    const grouped = await groupedChild(fixture, ANY_OF, 2);
    const { child, resolve } = grouped;
    await resolve(0, "failed");
    await resolve(1, "skipped");
    expect(await fixture.done(replay(fixture, grouped))).toEqual(["2"]);
    expect(await fixture.hash(child.core)).toMatchObject({ ...BLOCKED, replay_count: "1" });
    await expectOnlyIn(fixture, child, "blockedDependencies");
    expect(await groupOf(fixture, child)).toMatchObject({
      n: "2",
      succeeded: "0",
      failed: "0",
      skipped: "0",
      group_state: "pending",
    });
    expect(await resolve(1, "failed")).toEqual(["pending", ""]);
    expect(await resolve(0, "success")).toEqual(["satisfied", ""]);
    expect(await fixture.hash(child.core)).toMatchObject({
      ...WAITING,
      attempt_state: "pending_replay_attempt",
    });
  });

  test("quorum: earlier successes still count, and the child can be skipped again", async () => {
    const fixture = newFixture();
    const grouped = await groupedChild(fixture, TWO, 3);
    const { child, resolve } = grouped;
    await resolve(0, "success");
    await resolve(1, "failed");
    expect(await resolve(2, "failed")).toEqual(["impossible", "child_skipped"]);
    expect(await fixture.done(replay(fixture, grouped))).toEqual(["2"]);
    expect(await groupOf(fixture, child)).toMatchObject({
      succeeded: "1",
      failed: "0",
      group_state: "pending",
    });
    await resolve(1, "failed");
    expect(await resolve(2, "expired")).toEqual(["impossible", "child_skipped"]);
    expect(await fixture.done(replay(fixture, grouped))).toEqual(["2"]);
    expect(await resolve(2, "success")).toEqual(["satisfied", ""]);
    expect(await fixture.hash(child.core)).toMatchObject(WAITING);
  });

  test("an edge resolved after the decision counts in the next decision", async () => {
    const fixture = newFixture();
    const grouped = await groupedChild(fixture, TWO, 3);
    const { child, resolve } = grouped;
    await resolve(0, "failed");
    await resolve(1, "failed");
    expect(await resolve(2, "success")).toEqual(["already_fired", ""]);
    expect(await fixture.done(replay(fixture, grouped))).toEqual(["2"]);
    expect(await resolve(0, "success")).toEqual(["satisfied", ""]);
    expect(await fixture.hash(child.core)).toMatchObject(WAITING);
  });

  test("drops the pending cancellation of its upstreams", async () => {
    const fixture = newFixture();
    const grouped = await groupedChild(fixture, { ...TWO, onSatisfied: "cancel_remaining" }, 3);
    const { child, resolve } = grouped;
    const other = await groupedChild(fixture, { ...TWO, onSatisfied: "cancel_remaining" }, 1);
    await other.resolve(0, "failed");
    await resolve(0, "failed");
    await resolve(1, "failed");
    expect(await fixture.read("scard", fixture.index.pendingCancelGroups)).toBe(2);
    await fixture.done(replay(fixture, grouped));
    const left = [`${fixture.flow.id}|${other.child.id}`];
    expect(await fixture.read("smembers", fixture.index.pendingCancelGroups)).toEqual(left);
    const names = Object.keys(await groupOf(fixture, child)).filter((name) => name.startsWith("cancel_"));
    expect(names).toEqual([]);
  });

  test("all_of: the group is pending again, and the remaining edges satisfy it", async () => {
    const fixture = newFixture();
    const grouped = await groupedChild(fixture, undefined, 2);
    const { child, resolve } = grouped;
    await resolve(0, "success");
    await resolve(1, "failed");
    expect(await groupOf(fixture, child)).toMatchObject({ failed: "1", group_state: "impossible" });
    expect(await fixture.done(replay(fixture, grouped))).toEqual(["1"]);
    expect(await groupOf(fixture, child)).toMatchObject({
      succeeded: "1",
      failed: "0",
      group_state: "pending",
    });
    expect(await resolve(1, "success")).toEqual(["satisfied", ""]);
    expect(await groupOf(fixture, child)).toMatchObject({ succeeded: "2", group_state: "satisfied" });
  });

  test.each(["success", "failed", "cancelled"] as const)(
    "a child that ended with %s by itself runs again, and its other edges still count",
    async (outcome) => {
      const fixture = newFixture();
      const grouped = await groupedChild(fixture, ANY_OF, 3);
      const { child, resolve } = grouped;
      await resolve(0, "success");
      if (outcome === "cancelled") await fixture.cancel(child);
      else await fixture.finish(child, outcome);
      await resolve(1, "failed");
      expect(await fixture.done(replay(fixture, grouped, []))).toEqual(["0"]);
      await expectOnlyIn(fixture, child, "eligible");
      expect(await resolve(2, "success")).toEqual(["already_fired", ""]);
      expect(await resolve(1, "failed")).toEqual(["already_resolved"]);
      await fixture.finish(child, "success");
      expect(await fixture.hash(child.core)).toMatchObject(ended("success"));
    },
  );

  test("a child that was cancelled before its group was decided runs again, and the group can decide", async () => {
    const fixture = newFixture();
    const grouped = await groupedChild(fixture, TWO, 3);
    const { child, resolve } = grouped;
    await resolve(0, "failed");
    await fixture.cancel(child);
    await fixture.done(replay(fixture, grouped, []));
    await resolve(1, "success");
    expect(await resolve(2, "success")).toEqual(["satisfied", ""]);
    expect(await fixture.hash(child.core)).toMatchObject(WAITING);
    await expectOnlyIn(fixture, child, "eligible");
  });

  test("refuses if the group can no longer be satisfied, since the child would wait forever", async () => {
    const fixture = newFixture();
    const tooFew = await groupedChild(fixture, TWO, 1);
    await tooFew.resolve(0, "failed");
    await expectRefusal(fixture, replay(fixture, tooFew), "invalid_input", "edges", "quorum");
    const halfReopened = await groupedChild(fixture, TWO, 3);
    for (const edge of [0, 1, 2]) await halfReopened.resolve(edge, "failed");
    const one = replay(fixture, halfReopened, [halfReopened.edge(0)]);
    await expectRefusal(fixture, one, "invalid_input", "edges", "quorum");
    const twice = replay(fixture, halfReopened, [halfReopened.edge(0), halfReopened.edge(0)]);
    await expectRefusal(fixture, twice, "invalid_input", "edges", "quorum");
    const two = replay(fixture, halfReopened, [halfReopened.edge(0), halfReopened.edge(1)]);
    expect(await fixture.done(two)).toEqual(["2"]);
  });

  test("makes the child eligible at once if later edges satisfy the group", async () => {
    const fixture = newFixture();
    const { child, edges, resolve } = await groupedChild(fixture, TWO, 1);
    expect(await resolve(0, "success")).toEqual(["impossible", "child_skipped"]);
    const late = await fixture.edge(await fixture.member(), child);
    expect(await fixture.done(fixture.resolution(late, "success"))).toEqual(["already_fired", ""]);
    const ids = [...edges, late].map(({ id }) => id);
    expect(await fixture.done(replayExecution(child, fixture.index, fixture.lane, ids, NOW))).toEqual(["0"]);
    const core = await fixture.hash(child.core);
    expect(core).toMatchObject({ ...WAITING, attempt_state: "pending_replay_attempt" });
    await expectOnlyIn(fixture, child, "eligible", Number(field(core, "created_at")) - 3e12);
    expect(await groupOf(fixture, child)).toMatchObject({ group_state: "satisfied" });
  });
});

describe.each(DEPLOYMENTS_14)("eligibility of a child with a group ($name)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  function promote(fixture: FlowFixture, child: ExecKeys) {
    return promoteBlockedToEligible(child, fixture.index, fixture.lane, NOW);
  }

  test.each([ANY_OF, TWO])("$variant: follows the state of its group", async (policy) => {
    const fixture = newFixture();
    const { child, resolve } = await groupedChild(fixture, policy, 3);
    expect(await fixture.done(evaluateFlowEligibility(child))).toEqual(["blocked_by_dependencies"]);
    await expectRefusal(fixture, promote(fixture, child), "deps_not_satisfied", "3", "3");
    await resolve(0, "success");
    if (policy === TWO) {
      await expectRefusal(fixture, promote(fixture, child), "deps_not_satisfied", "3", "2");
      await resolve(1, "success");
    }
    expect(await fixture.hash(child.core)).toMatchObject(WAITING);
    const readOnly = { ...evaluateFlowEligibility(child), name: "fcall_ro" };
    expect(await fixture.done(readOnly)).toEqual(["eligible"]);
  });

  test("promotes a blocked child of a satisfied group, whatever the counts in deps:meta", async () => {
    const fixture = newFixture();
    const { child, resolve } = await groupedChild(fixture, ANY_OF, 3);
    const blocked = await fixture.hash(child.core);
    await resolve(0, "success");
    // The state that a library leaves behind if it blocks the child for every applied edge.
    const { blockedDependencies, eligible } = fixture.index.lane(fixture.lane);
    await fixture.read("hset", child.core, ...Object.entries(blocked).flat());
    await fixture.read("zrem", eligible, child.id);
    await fixture.read("zadd", blockedDependencies, 1, child.id);
    expect(await fixture.done(promote(fixture, child))).toEqual([]);
    expect(await fixture.hash(child.core)).toMatchObject(WAITING);
    await expectOnlyIn(fixture, child, "eligible");
  });

  test("does not promote a child of an impossible group, and ignores a group without edges", async () => {
    const fixture = newFixture();
    const { child, resolve } = await groupedChild(fixture, ANY_OF, 1);
    const blocked = await fixture.hash(child.core);
    await resolve(0, "failed");
    expect(await fixture.hash(child.core)).toMatchObject(ended("skipped"));
    expect(await fixture.done(evaluateFlowEligibility(child))).toEqual(["not_runnable"]);
    await fixture.read("hset", child.core, ...Object.entries(blocked).flat());
    expect(await fixture.done(evaluateFlowEligibility(child))).toEqual(["impossible"]);
    await expectRefusal(fixture, promote(fixture, child), "deps_not_satisfied", "1", "0");

    const free = await fixture.member();
    await fixture.group(free, ANY_OF);
    expect(await fixture.done(evaluateFlowEligibility(free))).toEqual(["eligible"]);
  });
});
