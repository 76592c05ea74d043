import { randomUUID } from "node:crypto";
import { describe, expect, test } from "vitest";
import { stageDependencyEdge } from "#shared/contract/submission.ts";
import { expectOnlyIn, expectRefusal, fixturesOn, serverTime } from "#test/support/expectations.ts";
import { field } from "#test/support/flow-fixture.ts";
import { BLOCKED, DELAYED } from "#test/support/states.ts";
import { DEPLOYMENTS_OF_BOTH } from "#test/support/valkey.ts";

/** A now_ms that no clock shows, so that tests can tell whether it was used. */
const NOW = 1_234_567_890_123;

describe.each(DEPLOYMENTS_OF_BOTH)("ff_stage_dependency_edge ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test("writes the edge at now_ms, and both adjacency sets", async () => {
    const fixture = newFixture();
    const [up, down] = [await fixture.member(), await fixture.member()];
    const edge = fixture.newEdge(up, down, "input");
    expect(await fixture.done(stageDependencyEdge(fixture.flow, edge, 2, NOW))).toEqual([edge.id, "3"]);
    expect(await fixture.hash(fixture.flow.edge(edge.id))).toEqual({
      edge_id: edge.id,
      flow_id: fixture.flow.id,
      upstream_execution_id: up.id,
      downstream_execution_id: down.id,
      dependency_kind: "success_only",
      satisfaction_condition: "all_required",
      data_passing_ref: "input",
      edge_state: "pending",
      created_at: String(NOW),
      created_by: "engine",
    });
    expect(await fixture.read("smembers", fixture.flow.outgoing(up.id))).toEqual([edge.id]);
    expect(await fixture.read("smembers", fixture.flow.incoming(down.id))).toEqual([edge.id]);
    expect(await fixture.hash(fixture.flow.core)).toMatchObject({
      graph_revision: "3",
      edge_count: "1",
      node_count: "2",
      last_mutation_at: String(NOW),
    });
  });

  test("refuses in the order of the contract, and writes nothing", async () => {
    const fixture = newFixture();
    const [up, down] = [fixture.newExecution(), fixture.newExecution()];
    const edge = fixture.newEdge(up, down);
    const staged = (revision: number) => stageDependencyEdge(fixture.flow, edge, revision, NOW);
    const toItself = stageDependencyEdge(fixture.flow, fixture.newEdge(up, up), 9, NOW);
    await expectRefusal(fixture, toItself, "self_referencing_edge");
    await expectRefusal(fixture, staged(9), "flow_not_found");
    await fixture.createFlow();
    await fixture.read("hset", fixture.flow.core, "public_flow_state", "failed");
    await expectRefusal(fixture, staged(9), "flow_already_terminal");
    await fixture.read("hset", fixture.flow.core, "public_flow_state", "open");
    await expectRefusal(fixture, staged(9), "stale_graph_revision", "0");
    await expectRefusal(fixture, staged(0), "execution_not_in_flow", up.id);
    await fixture.read("sadd", fixture.flow.members, up.id);
    await expectRefusal(fixture, staged(0), "execution_not_in_flow", down.id);
    await fixture.read("sadd", fixture.flow.members, down.id);

    await fixture.stage(edge);
    await expectRefusal(fixture, staged(1), "dependency_already_exists");
    // An existing edge id in the opposite direction is refused as a cycle, before it is refused as a duplicate.
    const reversed = { ...edge, upstream: down.id, downstream: up.id };
    await expectRefusal(fixture, stageDependencyEdge(fixture.flow, reversed, 1, NOW), "cycle_detected");
  });

  test("refuses an existing edge id with other ends", async () => {
    const fixture = newFixture();
    const [a, b, c] = [await fixture.member(), await fixture.member(), await fixture.member()];
    const edge = fixture.newEdge(a, b);
    await fixture.stage(edge);
    const other = { ...edge, downstream: c.id };
    await expectRefusal(
      fixture,
      stageDependencyEdge(fixture.flow, other, 4, NOW),
      "dependency_already_exists",
    );
  });

  test("refuses a malformed now_ms before any write", async () => {
    const fixture = newFixture();
    const edge = fixture.newEdge(await fixture.member(), await fixture.member());
    const command = stageDependencyEdge(fixture.flow, edge, 2, Number.NaN);
    await expectRefusal(fixture, command, "invalid_input", "now_ms");
  });
});

describe.each(DEPLOYMENTS_OF_BOTH)("ff_apply_dependency_to_child ($name, $edition KEYS)", (deployment) => {
  const newFixture = fixturesOn(deployment);

  test("blocks the child, and counts each edge once, at now_ms", async () => {
    const fixture = newFixture();
    const [up, child] = [await fixture.member(), await fixture.member()];
    const [first, second] = [fixture.newEdge(up, child, "input"), fixture.newEdge(up, child)];
    expect(await fixture.call(fixture.apply(first, child, 3, NOW))).toMatchObject({
      status: "OK",
      fields: ["1"],
    });
    expect(await fixture.done(fixture.apply(second, child, 4, NOW))).toEqual(["2"]);

    expect(await fixture.hash(child.dep(first.id))).toEqual({
      edge_id: first.id,
      flow_id: fixture.flow.id,
      upstream_execution_id: up.id,
      downstream_execution_id: child.id,
      dependency_kind: "success_only",
      state: "unsatisfied",
      data_passing_ref: "input",
    });
    expect(await fixture.hash(child.depsMeta)).toEqual({
      flow_id: fixture.flow.id,
      unsatisfied_required_count: "2",
      impossible_required_count: "0",
      last_flow_graph_revision: "4",
      last_dependency_update_at: String(NOW),
    });
    const edges = [first.id, second.id].sort();
    expect((await fixture.snapshot())[child.depsUnresolved]?.value).toEqual(edges);
    expect((await fixture.snapshot())[child.depsAllEdges]?.value).toEqual(edges);
    const core = await fixture.hash(child.core);
    expect(core).toMatchObject({
      ...BLOCKED,
      attempt_state: "pending_first_attempt",
      last_transition_at: String(NOW),
      last_mutation_at: String(NOW),
    });
    await expectOnlyIn(fixture, child, "blockedDependencies", Number(field(core, "created_at")));

    const before = await fixture.snapshot();
    expect(await fixture.done(fixture.apply(first, child, 9, NOW + 1))).toEqual(["already_applied"]);
    expect(await fixture.snapshot()).toEqual(before);
  });

  test("removes a delayed child from the delayed zset", async () => {
    const fixture = newFixture();
    const [up, child] = [
      await fixture.member(),
      await fixture.member({ delayUntil: (await serverTime(fixture)) + 60_000 }),
    ];
    expect(await fixture.hash(child.core)).toMatchObject(DELAYED);
    await fixture.edge(up, child);
    expect(await fixture.hash(child.core)).toMatchObject({
      ...BLOCKED,
      blocking_detail: expect.stringMatching(/^delayed until \d{13}$/),
    });
    await expectOnlyIn(fixture, child, "blockedDependencies");
  });

  test("adds the edge to an active or terminal child without changing its state", async () => {
    const fixture = newFixture();
    const [up, running, done] = [await fixture.member(), await fixture.member(), await fixture.member()];
    await fixture.claim(running);
    await fixture.finish(done, "success");
    for (const child of [running, done]) {
      const before = await fixture.hash(child.core);
      expect(await fixture.done(fixture.apply(fixture.newEdge(up, child), child, 1, NOW))).toEqual(["1"]);
      expect(await fixture.hash(child.core)).toEqual(before);
    }
    await expectOnlyIn(fixture, running, "active");
    await expectOnlyIn(fixture, done, "terminal");
  });

  test("takes the keys of either edition, and fails with fewer than its own", async () => {
    const fixture = newFixture();
    const [up, child] = [await fixture.member(), await fixture.member()];
    const edge = fixture.newEdge(up, child);
    const { name, args } = fixture.apply(edge, child, 1, NOW);
    expect(args[1]).toBe(8);
    const before = await fixture.snapshot();
    const short = [args[0] ?? "", 6, ...args.slice(2, 8), ...args.slice(10)];
    await expect(fixture.read(name, ...short)).rejects.toThrow(
      `ff_apply_dependency_to_child takes ${deployment.edition === 11 ? 7 : 8} KEYS, not 6`,
    );
    expect(await fixture.snapshot()).toEqual(before);
    expect(await fixture.read(name, ...args)).toEqual([1, "OK", "1"]);
  });

  test("refuses in the order of the contract, and writes nothing", async () => {
    const fixture = newFixture();
    const [up, child] = [await fixture.member(), fixture.newExecution()];
    const edge = fixture.newEdge(up, child);
    await expectRefusal(fixture, fixture.apply(edge, child, 1, NOW), "execution_not_found");
    await expectRefusal(fixture, fixture.apply(edge, child, 1, Number.NaN), "execution_not_found");
    const other = randomUUID();
    const stranger = await fixture.execution();
    await fixture.read("hset", stranger.core, "flow_id", other);
    const command = fixture.apply(fixture.newEdge(up, stranger), stranger, 1, NOW);
    await expectRefusal(fixture, command, "execution_already_in_flow", other);
    const member = await fixture.member();
    const noTime = fixture.apply(fixture.newEdge(up, member), member, 1, Number.NaN);
    await expectRefusal(fixture, noTime, "invalid_input", "now_ms");
  });
});
