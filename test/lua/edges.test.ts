import { randomUUID } from "node:crypto";
import { describe, expect, test } from "vitest";
import { applyDependencyToChild, stageDependencyEdge } from "#shared/contract/submission.ts";
import { expectOnlyIn, expectRefusal, scenesOn, serverTime } from "#test/support/expectations.ts";
import { field } from "#test/support/scene.ts";
import { BLOCKED, DELAYED } from "#test/support/states.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

/** A now_ms that differs from every clock, so that its use shows. */
const NOW = 1_234_567_890_123;

describe.each(DEPLOYMENTS_OF_BOTH)("ff_stage_dependency_edge on $name, $edition KEYS", (deployment) => {
  const newScene = scenesOn(deployment);

  test("writes the edge and both adjacency sets, at now_ms", async () => {
    const scene = newScene();
    const [up, down] = [await scene.member(), await scene.member()];
    const edge = scene.newEdge(up, down, "input");
    expect(await scene.done(stageDependencyEdge(scene.flow, edge, 2, NOW))).toEqual([edge.id, "3"]);
    expect(await scene.hash(scene.flow.edge(edge.id))).toEqual({
      edge_id: edge.id,
      flow_id: scene.flow.id,
      upstream_execution_id: up.id,
      downstream_execution_id: down.id,
      dependency_kind: "success_only",
      satisfaction_condition: "all_required",
      data_passing_ref: "input",
      edge_state: "pending",
      created_at: String(NOW),
      created_by: "engine",
    });
    expect(await scene.read("smembers", scene.flow.outgoing(up.id))).toEqual([edge.id]);
    expect(await scene.read("smembers", scene.flow.incoming(down.id))).toEqual([edge.id]);
    expect(await scene.hash(scene.flow.core)).toMatchObject({
      graph_revision: "3",
      edge_count: "1",
      node_count: "2",
      last_mutation_at: String(NOW),
    });
  });

  test("refuses, in the contract's order", async () => {
    const scene = newScene();
    const [up, down] = [scene.newExecution(), scene.newExecution()];
    const edge = scene.newEdge(up, down);
    const staged = (revision: number) => stageDependencyEdge(scene.flow, edge, revision, NOW);
    const toItself = stageDependencyEdge(scene.flow, scene.newEdge(up, up), 9, NOW);
    await expectRefusal(scene, toItself, "self_referencing_edge");
    await expectRefusal(scene, staged(9), "flow_not_found");
    await scene.createFlow();
    await scene.read("hset", scene.flow.core, "public_flow_state", "failed");
    await expectRefusal(scene, staged(9), "flow_already_terminal");
    await scene.read("hset", scene.flow.core, "public_flow_state", "open");
    await expectRefusal(scene, staged(9), "stale_graph_revision", "0");
    await expectRefusal(scene, staged(0), "execution_not_in_flow", up.id);
    await scene.read("sadd", scene.flow.members, up.id);
    await expectRefusal(scene, staged(0), "execution_not_in_flow", down.id);
    await scene.read("sadd", scene.flow.members, down.id);

    await scene.stage(edge);
    await expectRefusal(scene, staged(1), "dependency_already_exists");
    // The same edge the other way round is a cycle before it is a duplicate.
    const reversed = { ...edge, upstream: down.id, downstream: up.id };
    await expectRefusal(scene, stageDependencyEdge(scene.flow, reversed, 1, NOW), "cycle_detected");
  });

  test("an edge's id is taken for other ends as well", async () => {
    const scene = newScene();
    const [a, b, c] = [await scene.member(), await scene.member(), await scene.member()];
    const edge = scene.newEdge(a, b);
    await scene.stage(edge);
    const other = { ...edge, downstream: c.id };
    await expectRefusal(scene, stageDependencyEdge(scene.flow, other, 4, NOW), "dependency_already_exists");
  });

  test("a now_ms that is no time is refused before anything is written", async () => {
    const scene = newScene();
    const edge = scene.newEdge(await scene.member(), await scene.member());
    const command = stageDependencyEdge(scene.flow, edge, 2, Number.NaN);
    await expectRefusal(scene, command, "invalid_input", "now_ms");
  });
});

describe.each(DEPLOYMENTS_OF_BOTH)("ff_apply_dependency_to_child on $name, $edition KEYS", (deployment) => {
  const newScene = scenesOn(deployment);

  test("the child waits for each edge, once, at now_ms", async () => {
    const scene = newScene();
    const [up, child] = [await scene.member(), await scene.member()];
    const [first, second] = [scene.newEdge(up, child, "input"), scene.newEdge(up, child)];
    expect(await scene.call(scene.apply(first, child, 3, NOW))).toMatchObject({
      status: "OK",
      fields: ["1"],
    });
    expect(await scene.done(scene.apply(second, child, 4, NOW))).toEqual(["2"]);

    expect(await scene.hash(child.dep(first.id))).toEqual({
      edge_id: first.id,
      flow_id: scene.flow.id,
      upstream_execution_id: up.id,
      downstream_execution_id: child.id,
      dependency_kind: "success_only",
      state: "unsatisfied",
      data_passing_ref: "input",
      last_resolved_at: "",
    });
    expect(await scene.hash(child.depsMeta)).toEqual({
      flow_id: scene.flow.id,
      unsatisfied_required_count: "2",
      impossible_required_count: "0",
      last_flow_graph_revision: "4",
      last_dependency_update_at: String(NOW),
    });
    const edges = [first.id, second.id].sort();
    expect((await scene.snapshot())[child.depsUnresolved]?.value).toEqual(edges);
    expect((await scene.snapshot())[child.depsAllEdges]?.value).toEqual(edges);
    const core = await scene.hash(child.core);
    expect(core).toMatchObject({
      ...BLOCKED,
      attempt_state: "pending_first_attempt",
      last_transition_at: String(NOW),
      last_mutation_at: String(NOW),
    });
    await expectOnlyIn(scene, child, "blockedDependencies", Number(field(core, "created_at")));

    const before = await scene.snapshot();
    expect(await scene.done(scene.apply(first, child, 9, NOW + 1))).toEqual(["already_applied"]);
    expect(await scene.snapshot()).toEqual(before);
  });

  test("a delayed child leaves the delayed zset", async () => {
    const scene = newScene();
    const [up, child] = [
      await scene.member(),
      await scene.member({ delayUntil: (await serverTime(scene)) + 60_000 }),
    ];
    expect(await scene.hash(child.core)).toMatchObject(DELAYED);
    await scene.edge(up, child);
    expect(await scene.hash(child.core)).toMatchObject(BLOCKED);
    await expectOnlyIn(scene, child, "blockedDependencies");
  });

  test("a child that runs or has ended gets the edge and keeps its state", async () => {
    const scene = newScene();
    const [up, running, done] = [await scene.member(), await scene.member(), await scene.member()];
    await scene.claim(running);
    await scene.finish(done, "success");
    for (const child of [running, done]) {
      const before = await scene.hash(child.core);
      expect(await scene.done(scene.apply(scene.newEdge(up, child), child, 1, NOW))).toEqual(["1"]);
      expect(await scene.hash(child.core)).toEqual(before);
    }
    await expectOnlyIn(scene, running, "active");
    await expectOnlyIn(scene, done, "terminal");
  });

  test("the other edition's keys fail, and nothing is written", async () => {
    const scene = newScene();
    const [up, child] = [await scene.member(), await scene.member()];
    const [other, keys] = deployment.edition === 11 ? ([14, 7] as const) : ([11, 8] as const);
    const edge = scene.newEdge(up, child);
    const command = applyDependencyToChild(other, scene.flow, child, scene.index, scene.lane, edge, 1, NOW);
    const before = await scene.snapshot();
    await expect(scene.read(command.name, ...command.args)).rejects.toThrow(
      `ff_apply_dependency_to_child takes ${keys} KEYS, not ${15 - keys}`,
    );
    expect(await scene.snapshot()).toEqual(before);
  });

  test("refuses, in the contract's order", async () => {
    const scene = newScene();
    const [up, child] = [await scene.member(), scene.newExecution()];
    const edge = scene.newEdge(up, child);
    await expectRefusal(scene, scene.apply(edge, child, 1, NOW), "execution_not_found");
    await expectRefusal(scene, scene.apply(edge, child, 1, Number.NaN), "execution_not_found");
    const other = randomUUID();
    const stranger = await scene.execution();
    await scene.read("hset", stranger.core, "flow_id", other);
    const command = scene.apply(scene.newEdge(up, stranger), stranger, 1, NOW);
    await expectRefusal(scene, command, "execution_already_in_flow", other);
    const member = await scene.member();
    const noTime = scene.apply(scene.newEdge(up, member), member, 1, Number.NaN);
    await expectRefusal(scene, noTime, "invalid_input", "now_ms");
  });
});
