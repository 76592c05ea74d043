import { describe, expect, test } from "vitest";
import { replayExecution } from "#shared/contract/graph.ts";
import type { EdgeId } from "#shared/contract/ids.ts";
import type { ExecKeys } from "#shared/contract/keys.ts";
import {
  expectOnlyIn,
  expectRefusal,
  expectTimeIn,
  scenesOn,
  serverTime,
} from "#test/support/expectations.ts";
import { field, type Scene } from "#test/support/scene.ts";
import { BLOCKED, ended, WAITING } from "#test/support/states.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

function replay(scene: Scene, keys: ExecKeys, edges: readonly EdgeId[] = []) {
  return replayExecution(keys, scene.index, scene.lane, edges, 1);
}

describe.each(DEPLOYMENTS_OF_BOTH)("ff_replay_execution on $name, $edition KEYS", (deployment) => {
  const newScene = scenesOn(deployment);

  test.each(["success", "failed"] as const)(
    "an execution that ended in %s is eligible again",
    async (outcome) => {
      const scene = newScene();
      const keys = await scene.member({ priority: 2 });
      await scene.finish(keys, outcome);
      const from = await serverTime(scene);
      expect(await scene.done(replay(scene, keys))).toEqual(["0"]);
      const core = await scene.hash(keys.core);
      expect(core).toMatchObject({
        ...WAITING,
        attempt_state: "pending_replay_attempt",
        replay_count: "1",
        completed_at: "",
        total_attempt_count: "1",
      });
      expectTimeIn(field(core, "last_transition_at"), from, await serverTime(scene));
      await expectOnlyIn(scene, keys, "eligible", Number(field(core, "created_at")) - 2e12);
      expect(await scene.read("xrevrange", keys.leaseHistory, "+", "-", "COUNT", 1)).toEqual([
        [expect.any(String), ["event", "replayed", "replay_count", "1", "at", expect.any(String)]],
      ]);
    },
  );

  test("a skipped flow member waits again for the edges that were impossible, and only those", async () => {
    const scene = newScene();
    const [a, b, c] = [await scene.member(), await scene.member(), await scene.member()];
    const child = await scene.member();
    const edges = [
      await scene.edge(a, child),
      await scene.edge(b, child),
      await scene.edge(c, child),
    ] as const;
    await scene.done(scene.resolution(edges[0], "success"));
    await scene.done(scene.resolution(edges[1], "failed"));
    expect(
      await scene.done(
        replay(
          scene,
          child,
          edges.map(({ id }) => id),
        ),
      ),
    ).toEqual(["2"]);
    const core = await scene.hash(child.core);
    expect(core).toMatchObject({
      ...BLOCKED,
      attempt_state: "pending_replay_attempt",
      replay_count: "1",
      completed_at: "",
    });
    await expectOnlyIn(scene, child, "blockedDependencies", Number(field(core, "created_at")));
    expect(await scene.hash(child.depsMeta)).toMatchObject({
      unsatisfied_required_count: "2",
      impossible_required_count: "0",
    });
    expect((await scene.snapshot())[child.depsUnresolved]?.value).toEqual([edges[1].id, edges[2].id].sort());
    const states = await Promise.all(
      edges.map(async ({ id }) => field(await scene.hash(child.dep(id)), "state")),
    );
    expect(states).toEqual(["satisfied", "unsatisfied", "unsatisfied"]);
    expect(field(await scene.hash(child.dep(edges[1].id)), "last_resolved_at")).toBe("");
  });

  test("refuses, in the contract's order", async () => {
    const scene = newScene();
    const keys = scene.newExecution();
    await expectRefusal(scene, replay(scene, keys), "execution_not_found");
    const running = await scene.execution({ policyJson: '{"max_replay_count":1}' });
    await expectRefusal(scene, replay(scene, running), "execution_not_terminal");
    await scene.finish(running, "failed");
    await scene.done(replay(scene, running));
    await scene.finish(running, "failed");
    await expectRefusal(scene, replay(scene, running), "max_replays_exhausted", "1");
  });

  test("ten replays where the policy says nothing", async () => {
    const scene = newScene();
    const keys = await scene.execution();
    await scene.finish(keys, "failed");
    await scene.read("hset", keys.core, "replay_count", "9");
    await scene.done(replay(scene, keys));
    await scene.finish(keys, "failed");
    await expectRefusal(scene, replay(scene, keys), "max_replays_exhausted", "10");
  });

  test("a skipped flow member without its edges is refused: it would run without them", async () => {
    const scene = newScene();
    const [up, child] = [await scene.member(), await scene.member()];
    const edge = await scene.edge(up, child);
    await scene.done(scene.resolution(edge, "failed"));
    expect(await scene.hash(child.core)).toMatchObject(ended("skipped"));
    await expectRefusal(scene, replay(scene, child), "invalid_input", "edges");
  });
});
