import { describe, expect, test } from "vitest";
import {
  evaluateFlowEligibility,
  promoteBlockedToEligible,
  replayExecution,
} from "#shared/contract/graph.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import { ANY_OF, type GroupedChild, groupedChild, groupOf, NOW, TWO } from "#test/lua/grouped-child.ts";
import { expectOnlyIn, expectRefusal, scenesOn } from "#test/support/expectations.ts";
import { field, type Scene } from "#test/support/scene.ts";
import { BLOCKED, ended, WAITING } from "#test/support/states.ts";
import { DEPLOYMENTS_14 } from "#test/support/valkey.ts";

function replay(scene: Scene, { child, edges }: GroupedChild, reopened = edges) {
  const ids = reopened.map(({ id }) => id);
  return replayExecution(child, scene.index, scene.lane, ids, NOW);
}

describe.each(DEPLOYMENTS_14)("replaying a child that its group skipped, on $name", (deployment) => {
  const newScene = scenesOn(deployment);

  test("any_of: it waits again, and the group decides again", async () => {
    const scene = newScene();
    const grouped = await groupedChild(scene, ANY_OF, 2);
    const { child, resolve } = grouped;
    await resolve(0, "failed");
    await resolve(1, "skipped");
    expect(await scene.done(replay(scene, grouped))).toEqual(["2"]);
    expect(await scene.hash(child.core)).toMatchObject({ ...BLOCKED, replay_count: "1" });
    await expectOnlyIn(scene, child, "blockedDependencies");
    expect(await groupOf(scene, child)).toMatchObject({
      n: "2",
      succeeded: "0",
      failed: "0",
      skipped: "0",
      group_state: "pending",
    });
    expect(await resolve(1, "failed")).toEqual(["pending", ""]);
    expect(await resolve(0, "success")).toEqual(["satisfied", ""]);
    expect(await scene.hash(child.core)).toMatchObject({
      ...WAITING,
      attempt_state: "pending_replay_attempt",
    });
  });

  test("quorum: successes go on counting, and it can be skipped once more", async () => {
    const scene = newScene();
    const grouped = await groupedChild(scene, TWO, 3);
    const { child, resolve } = grouped;
    await resolve(0, "success");
    await resolve(1, "failed");
    expect(await resolve(2, "failed")).toEqual(["impossible", "child_skipped"]);
    expect(await scene.done(replay(scene, grouped))).toEqual(["2"]);
    expect(await groupOf(scene, child)).toMatchObject({
      succeeded: "1",
      failed: "0",
      group_state: "pending",
    });
    await resolve(1, "failed");
    expect(await resolve(2, "expired")).toEqual(["impossible", "child_skipped"]);
    expect(await scene.done(replay(scene, grouped))).toEqual(["2"]);
    expect(await resolve(2, "success")).toEqual(["satisfied", ""]);
    expect(await scene.hash(child.core)).toMatchObject(WAITING);
  });

  test("an edge that came after the decision counts, when all is decided again", async () => {
    const scene = newScene();
    const grouped = await groupedChild(scene, TWO, 3);
    const { child, resolve } = grouped;
    await resolve(0, "failed");
    await resolve(1, "failed");
    expect(await resolve(2, "success")).toEqual(["already_fired", ""]);
    expect(await scene.done(replay(scene, grouped))).toEqual(["2"]);
    expect(await resolve(0, "success")).toEqual(["satisfied", ""]);
    expect(await scene.hash(child.core)).toMatchObject(WAITING);
  });

  test("the cancellation of its upstreams is taken back", async () => {
    const scene = newScene();
    const grouped = await groupedChild(scene, { ...TWO, onSatisfied: "cancel_remaining" }, 3);
    const { child, resolve } = grouped;
    const other = await groupedChild(scene, { ...TWO, onSatisfied: "cancel_remaining" }, 1);
    await other.resolve(0, "failed");
    await resolve(0, "failed");
    await resolve(1, "failed");
    expect(await scene.read("scard", scene.index.pendingCancelGroups)).toBe(2);
    await scene.done(replay(scene, grouped));
    const left = [`${scene.flow.id}|${other.child.id}`];
    expect(await scene.read("smembers", scene.index.pendingCancelGroups)).toEqual(left);
    const names = Object.keys(await groupOf(scene, child)).filter((name) => name.startsWith("cancel_"));
    expect(names).toEqual([]);
  });

  test("all_of: the group is pending again, and satisfied by the rest", async () => {
    const scene = newScene();
    const grouped = await groupedChild(scene, undefined, 2);
    const { child, resolve } = grouped;
    await resolve(0, "success");
    await resolve(1, "failed");
    expect(await groupOf(scene, child)).toMatchObject({ failed: "1", group_state: "impossible" });
    expect(await scene.done(replay(scene, grouped))).toEqual(["1"]);
    expect(await groupOf(scene, child)).toMatchObject({
      succeeded: "1",
      failed: "0",
      group_state: "pending",
    });
    expect(await resolve(1, "success")).toEqual(["satisfied", ""]);
    expect(await groupOf(scene, child)).toMatchObject({ succeeded: "2", group_state: "satisfied" });
  });

  test("a group that cannot be satisfied any more is refused: its child would wait for ever", async () => {
    const scene = newScene();
    const tooFew = await groupedChild(scene, TWO, 1);
    await tooFew.resolve(0, "failed");
    await expectRefusal(scene, replay(scene, tooFew), "invalid_input", "edges", "quorum");
    const halfReopened = await groupedChild(scene, TWO, 3);
    for (const edge of [0, 1, 2]) await halfReopened.resolve(edge, "failed");
    const one = replay(scene, halfReopened, [halfReopened.edge(0)]);
    await expectRefusal(scene, one, "invalid_input", "edges", "quorum");
    const twice = replay(scene, halfReopened, [halfReopened.edge(0), halfReopened.edge(0)]);
    await expectRefusal(scene, twice, "invalid_input", "edges", "quorum");
    const two = replay(scene, halfReopened, [halfReopened.edge(0), halfReopened.edge(1)]);
    expect(await scene.done(two)).toEqual(["2"]);
  });

  test("a group that later edges satisfied makes the child eligible", async () => {
    const scene = newScene();
    const { child, edges, resolve } = await groupedChild(scene, TWO, 1);
    expect(await resolve(0, "success")).toEqual(["impossible", "child_skipped"]);
    const late = await scene.edge(await scene.member(), child);
    expect(await scene.done(scene.resolution(late, "success"))).toEqual(["already_fired", ""]);
    const ids = [...edges, late].map(({ id }) => id);
    expect(await scene.done(replayExecution(child, scene.index, scene.lane, ids, NOW))).toEqual(["0"]);
    const core = await scene.hash(child.core);
    expect(core).toMatchObject({ ...WAITING, attempt_state: "pending_replay_attempt" });
    await expectOnlyIn(scene, child, "eligible", Number(field(core, "created_at")) - 3e12);
    expect(await groupOf(scene, child)).toMatchObject({ group_state: "satisfied" });
  });
});

describe.each(DEPLOYMENTS_14)("the eligibility of a child with a group, on $name", (deployment) => {
  const newScene = scenesOn(deployment);

  function promote(scene: Scene, child: ExecKeys) {
    return promoteBlockedToEligible(child, scene.index, scene.lane, NOW);
  }

  test.each([ANY_OF, TWO])("$variant: what its group says", async (policy) => {
    const scene = newScene();
    const { child, resolve } = await groupedChild(scene, policy, 3);
    expect(await scene.done(evaluateFlowEligibility(child))).toEqual(["blocked_by_dependencies"]);
    await expectRefusal(scene, promote(scene, child), "deps_not_satisfied", "3", "3");
    await resolve(0, "success");
    if (policy === TWO) {
      await expectRefusal(scene, promote(scene, child), "deps_not_satisfied", "3", "2");
      await resolve(1, "success");
    }
    expect(await scene.hash(child.core)).toMatchObject(WAITING);
    const readOnly = { ...evaluateFlowEligibility(child), name: "fcall_ro" };
    expect(await scene.done(readOnly)).toEqual(["eligible"]);
  });

  test("one that is blocked although its group is satisfied is promoted, whatever the counts say", async () => {
    const scene = newScene();
    const { child, resolve } = await groupedChild(scene, ANY_OF, 3);
    const blocked = await scene.hash(child.core);
    await resolve(0, "success");
    // As a library would leave it that blocks the child for every edge that is applied.
    const { blockedDependencies, eligible } = scene.index.lane(scene.lane);
    await scene.read("hset", child.core, ...Object.entries(blocked).flat());
    await scene.read("zrem", eligible, child.id);
    await scene.read("zadd", blockedDependencies, 1, child.id);
    expect(await scene.done(promote(scene, child))).toEqual([]);
    expect(await scene.hash(child.core)).toMatchObject(WAITING);
    await expectOnlyIn(scene, child, "eligible");
  });

  test("an impossible group is none to be promoted by, and a group without edges says nothing", async () => {
    const scene = newScene();
    const { child, resolve } = await groupedChild(scene, ANY_OF, 1);
    const blocked = await scene.hash(child.core);
    await resolve(0, "failed");
    expect(await scene.hash(child.core)).toMatchObject(ended("skipped"));
    expect(await scene.done(evaluateFlowEligibility(child))).toEqual(["not_runnable"]);
    await scene.read("hset", child.core, ...Object.entries(blocked).flat());
    expect(await scene.done(evaluateFlowEligibility(child))).toEqual(["impossible"]);
    await expectRefusal(scene, promote(scene, child), "deps_not_satisfied", "1", "0");

    const free = await scene.member();
    await scene.group(free, ANY_OF);
    expect(await scene.done(evaluateFlowEligibility(free))).toEqual(["eligible"]);
  });
});
